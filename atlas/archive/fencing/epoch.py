"""The epoch that vault and database advance together, so that an old copy of either is noticed.

The vault holds one small object for each database that archives into it, named by the owner mark:
``{"epoch": n, "nonce": ...}``. Each run announces a fresh nonce in the database, swaps the object from n
to n + 1 by compare-and-swap, then records n + 1. A copied or restored database finds a nonce that it
neither recorded nor announced, and is refused.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

from atlas.db import Database
from atlas.errors import CorruptObject, EpochBehind, WrongVault
from atlas.repositories.ledger.control import ControlWriter
from atlas.repositories.ledger.files import Control, LedgerReader
from atlas.types import ObjectStore
from atlas.vault.offload import offload


@dataclass(frozen=True, slots=True)
class _Mark:
    """The vault's side."""

    epoch: int
    nonce: uuid.UUID

    def encode(self) -> bytes:
        return json.dumps({"epoch": self.epoch, "nonce": str(self.nonce)}).encode()


def epoch_key(owner: uuid.UUID) -> str:
    """Where the epoch of a database lies in the vault."""
    return f"_atlas/epochs/{owner}.json"


async def bind(database: Database, store: ObjectStore) -> Control:
    """The control row, bound to this vault. Raises `WrongVault` if it is bound to another."""
    async with database.transaction() as session:
        writer = ControlWriter(session)
        await writer.claim_vault(store.identity)
        control = await writer.control()
        others = await writer.other_vaults(store.identity)
    if control.vault != store.identity or others:
        raise WrongVault(
            f"this database archives into {control.vault if not others else ', '.join(others)}, "
            f"the configured vault is {store.identity}"
        )
    return control


async def advance_epoch(database: Database, store: ObjectStore, fence: int) -> Control:
    """Begin a run: prove that database and vault belong together and move both one epoch on.

    Raises `EpochBehind` where the vault carries an epoch this database knows nothing of, `LeaseLost`
    where a later archiver than that of ``fence`` has begun.
    """
    control = await bind(database, store)
    assert control.owner is not None
    key = epoch_key(control.owner)
    found = await offload(_read, store, key)
    if (
        found is not None
        and found.epoch == control.epoch + 1
        and found.nonce == control.pending_nonce
    ):
        # our own swap of a run that died before it could record it
        control = await _record(database, found, fence)
    expected = None if control.nonce is None else _Mark(control.epoch, control.nonce)
    if found != expected:
        await _check_fence(database, fence)
        raise _behind(control, found, key)
    # a nonce that was announced and never seen is announced again: its swap may still arrive
    mark = _Mark(control.epoch + 1, control.pending_nonce or uuid.uuid4())
    async with database.transaction() as session:
        await ControlWriter(session).announce(mark.nonce, fence)
    before = None if expected is None else expected.encode()
    if not await offload(store.compare_and_swap, key, before, mark.encode()):
        # an unclear answer of the store may hide our own swap: read before judging
        found = await offload(_read, store, key)
        if found != mark:
            await _check_fence(database, fence)
            raise _behind(control, found, key)
    return await _record(database, mark, fence)


async def adopt_vault(database: Database, store: ObjectStore, fence: int) -> Control:
    """Declare, on a person's word, that this database is the one the vault belongs to."""
    control = await bind(database, store)
    assert control.owner is not None
    key = epoch_key(control.owner)
    raw = await offload(store.get_bytes, key)
    found = None if raw is None else _decode(raw, key)
    mark = _Mark(max(control.epoch, found.epoch if found else 0) + 1, uuid.uuid4())
    if not await offload(store.compare_and_swap, key, raw, mark.encode()):
        raise EpochBehind(f"{key} changed while it was being adopted", hint="try again")
    return await _record(database, mark, fence)


async def _check_fence(database: Database, fence: int) -> None:
    """A later archiver's epoch is no sign of a copy: `LeaseLost` says what it is."""
    async with database.transaction() as session:
        await ControlWriter(session).check_fence(fence)


async def _record(database: Database, mark: _Mark, fence: int) -> Control:
    async with database.transaction() as session:
        writer = ControlWriter(session)
        await writer.set_epoch(mark.epoch, mark.nonce, fence)
        return await writer.control()


def _read(store: ObjectStore, key: str) -> _Mark | None:
    raw = store.get_bytes(key)
    return None if raw is None else _decode(raw, key)


def _decode(raw: bytes, key: str) -> _Mark:
    try:
        content = json.loads(raw)
        return _Mark(int(content["epoch"]), uuid.UUID(content["nonce"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptObject(f"{key} is not an epoch", path=key) from error


def _behind(control: Control, found: _Mark | None, key: str) -> EpochBehind:
    there = f"epoch {found.epoch}" if found else "no epoch"
    return EpochBehind(
        f"the vault carries {there} for this database at {key}, the database is at {control.epoch}"
    )


async def examine_epoch(database: Database, store: ObjectStore) -> str:
    """Say in words how database and vault stand to each other, changing nothing.

    Raises `WrongVault` or `EpochBehind` as a run would.
    """
    async with database.transaction(read_only=True) as session:
        reader = LedgerReader(session)
        control = await reader.control()
    if control.vault is None or control.owner is None:
        return "nothing archived yet"
    if control.vault != store.identity:
        raise WrongVault(
            f"this database archives into {control.vault}, the configured vault is {store.identity}"
        )
    key = epoch_key(control.owner)
    found = await offload(_read, store, key)
    expected = None if control.nonce is None else _Mark(control.epoch, control.nonce)
    pending = found is not None and found.nonce == control.pending_nonce
    if found != expected and not pending:
        raise _behind(control, found, key)
    return f"both at epoch {control.epoch}"
