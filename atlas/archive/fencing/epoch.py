"""The epoch that vault and database advance together, so that an old copy of either is noticed.

The vault holds one small object for each database that archives into it, named by the owner mark. Each job
announces a fresh nonce in the database, swaps the object from epoch n to n + 1 by compare-and-swap, then
records n + 1. A copied or restored database finds a nonce that it neither recorded nor announced, and is
refused.
"""

from __future__ import annotations

import uuid
from dataclasses import replace

from atlas.archive.recovery.ownership import check_owner, claim_prefix
from atlas.db import Database
from atlas.errors import EpochBehind, WrongVault
from atlas.repositories.ledger.control import ControlWriter
from atlas.repositories.ledger.files import Control, LedgerReader
from atlas.types import ObjectStore
from atlas.vault.marks import Mark, epoch_key, read_mark
from atlas.vault.offload import offload
from atlas.vault.owners import owner_of

_MOVED_SINCE = (
    "the configured vault is marked as this database's own: if the vault was moved there since, run "
    "`atlas vault adopt`; else restore the VAULT_* settings that this database was archived with"
)


async def read_control(
    database: Database, store: ObjectStore, *, may_have_moved: bool = False
) -> Control:
    """The control row, which names no other vault than this one, or else raises `WrongVault`.

    With ``may_have_moved`` it may name another one where this one is marked as the database's own: the vault
    was moved since, or copied.
    """
    async with database.transaction(read_only=True) as session:
        reader = LedgerReader(session)
        control = await reader.control()
        others = await reader.other_vaults(store.identity)
    # one that never ran is bound to none
    if control.nonce is not None and control.vault != store.identity and control.vault:
        others = [control.vault]
    if others:
        is_own = control.owner is not None and await offload(owner_of, store) == control.owner
        if not (is_own and may_have_moved):
            raise WrongVault(
                f"this database archives into {', '.join(others)}, the configured vault is {store.identity}",
                hint=_MOVED_SINCE if is_own else None,
            )
    return control


async def advance_epoch(database: Database, store: ObjectStore, fence: int) -> Control:
    """Begin a job: prove that database and vault belong together and move both one epoch on.

    Raises `WrongVault` where the vault is another database's, `EpochBehind` where it carries an epoch this
    database knows nothing of, `LeaseLost` where a later archiver than that of ``fence`` has begun.
    """
    claimed = await offload(check_owner, store, await read_control(database, store))
    async with database.transaction() as session:
        writer = ControlWriter(session)
        await writer.claim_vault(store.identity)
        control = await writer.control()
    owner = control.owner
    assert owner is not None
    if not claimed:
        await offload(claim_prefix, store, owner)
    found, raw = await offload(read_mark, store, owner)
    if found is not None and found.is_same(control.epoch + 1, control.pending_nonce):
        # our own swap of a run that died before it could record it
        control = await _record(database, found, fence)
    if not _agree(control, found):
        await _check_fence(database, fence)
        raise behind(control, found)
    # a nonce that was announced and never seen is announced again: its swap may still arrive
    mark = Mark.now(control.epoch + 1, control.pending_nonce or uuid.uuid4())
    async with database.transaction() as session:
        await ControlWriter(session).announce(mark.nonce, fence)
    key = epoch_key(owner)
    if not await offload(store.compare_and_swap, key, raw, mark.encode()):
        found, _ = await offload(read_mark, store, owner)
        if found is None or not found.is_same(mark.epoch, mark.nonce):
            await _check_fence(database, fence)
            raise behind(control, found)
    return await _record(database, mark, fence)


async def swap_for_adoption(database: Database, store: ObjectStore, control: Control) -> Control:
    """Move the vault's epoch on from whatever it is: no other side can begin a job any more.

    The database does not know it before `record_adoption`. Returns the control row as it will be.
    """
    assert control.owner is not None
    found, raw = await offload(read_mark, store, control.owner)
    mark = Mark.now(max(control.epoch, found.epoch if found else 0) + 1, uuid.uuid4())
    key = epoch_key(control.owner)
    if not await offload(store.compare_and_swap, key, raw, mark.encode()):
        raise EpochBehind(f"{key} changed while it was being adopted", hint="try again")
    return replace(control, epoch=mark.epoch, nonce=mark.nonce, pending_nonce=None)


async def record_adoption(database: Database, control: Control, fence: int) -> None:
    """Record the epoch of `swap_for_adoption`: the adoption is over."""
    assert control.nonce is not None
    await _record(database, Mark(control.epoch, control.nonce), fence)


async def check_epoch(store: ObjectStore, control: Control) -> None:
    """Raise `EpochBehind` if the vault carries another epoch than the one this job began with."""
    assert control.owner is not None
    found, _ = await offload(read_mark, store, control.owner)
    if not _agree(control, found):
        raise behind(control, found)


def _agree(control: Control, found: Mark | None) -> bool:
    if found is None:
        return control.nonce is None
    return found.moved_to is None and found.is_same(control.epoch, control.nonce)


async def _check_fence(database: Database, fence: int) -> None:
    """A later archiver's epoch is no sign of a copy: `LeaseLost` says what it is."""
    async with database.transaction() as session:
        await ControlWriter(session).check_fence(fence)


async def _record(database: Database, mark: Mark, fence: int) -> Control:
    async with database.transaction() as session:
        writer = ControlWriter(session)
        await writer.set_epoch(mark.epoch, mark.nonce, fence)
        return await writer.control()


def behind(control: Control, found: Mark | None) -> EpochBehind | WrongVault:
    """The error of a database whose vault carries another epoch."""
    if found is not None and found.moved_to is not None:
        return WrongVault(
            f"the vault of this database was moved to {found.moved_to}",
            hint="set the VAULT_* settings to where it is; an older copy of the database runs "
            "`atlas vault adopt` there",
        )
    there = str(found.side) if found else "no epoch"
    return EpochBehind(
        f"the vault carries {there} for this database {control.owner}, the database is at {control.epoch}"
    )


async def examine_epoch(database: Database, store: ObjectStore) -> str:
    """Say in words how database and vault stand to each other, changing nothing.

    Raises `WrongVault` or `EpochBehind` as a run would.
    """
    control = await read_control(database, store)
    await offload(check_owner, store, control)
    if control.vault is None or control.owner is None:
        return "nothing archived yet"
    found, _ = await offload(read_mark, store, control.owner)
    pending = found is not None and found.nonce == control.pending_nonce
    if not (_agree(control, found) or pending):
        raise behind(control, found)
    return f"both at epoch {control.epoch}"
