"""Moving a database's vault to another prefix or place; see docs/adoption.md."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from atlas.archive.fencing.epoch import advance_epoch
from atlas.archive.fencing.lock import archiver_lock
from atlas.archive.recovery.ownership import claim_prefix
from atlas.archive.recovery.taking import take_in
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.errors import InvalidInput, VerificationFailed, WrongVault
from atlas.logging import get_logger
from atlas.repositories.ledger.control import ControlWriter
from atlas.repositories.ledger.files import Control, LedgerReader
from atlas.types import ArchiveState, Dataset, ObjectInfo, ObjectStore, Progress
from atlas.vault import Vault
from atlas.vault.marks import Mark, epoch_key, read_mark
from atlas.vault.offload import offload
from atlas.vault.owners import OWNER_KEY, owners_of
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: What belongs to a place and not to the data: it is made anew.
_OF_THE_PLACE = (
    "_atlas/epochs/",
    "_atlas/condemned/",
    "_atlas/doctor/",
    "_atlas/manifests/",
    OWNER_KEY,
    "README.md",
)
#: What never changes once it is written.
_IMMUTABLE = tuple(f"{name}/" for name in ("_atlas", *Dataset))
_BATCH_BYTES = 256 << 20
_COPY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class MoveReport:
    """What a move copied; ``already`` were there from an earlier one. ``was_moved``: the database had moved
    before, and only what came to the old place since was copied."""

    source: str
    target: str
    objects: int
    bytes: int
    already: int
    was_moved: bool


async def move_vault(
    database: Database, source: Vault, target: Vault, progress: Progress | None
) -> MoveReport:
    """Copy every object, then point the database at the copy, then close the old place; see
    `Archiver.move`."""
    old, new = source.store, target.store
    if old.identity == new.identity:
        raise InvalidInput(f"the vault is at {new.identity} already", field="to")
    await offload(source.flush)
    async with archiver_lock(database) as fence:
        async with database.transaction(read_only=True) as session:
            control = await LedgerReader(session).control()
        was_moved = control.vault == new.identity and control.nonce is not None
        if not was_moved:
            control = await advance_epoch(database, old, fence)
            await take_in(Steps(database, old, control, fence))
        assert control.owner is not None
        await offload(_check_target, new, control.owner)
        async with database.transaction(read_only=True) as session:
            files = await LedgerReader(session).all_files()
        sums = {file.object_key: file.sha256 for file in files if file.state == ArchiveState.LIVE}
        copying = _Copying(old, new, sums, progress, replaces=not was_moved)
        await offload(copying.run)
        if not was_moved:
            await offload(_open, new, control)
            async with database.transaction() as session:
                writer = ControlWriter(session)
                await writer.check_fence(fence)
                await writer.move_to(new.identity)
            await Steps(database, new, control, fence).publisher.publish_at_end()
        await offload(_close, old, control.owner, new.identity)
    log.info("vault_moved", objects=copying.objects, target=new.identity)
    return MoveReport(
        old.identity, new.identity, copying.objects, copying.bytes, copying.already, was_moved
    )


def _check_target(store: ObjectStore, owner: uuid.UUID) -> None:
    others = owners_of(store) - {owner}
    if others:
        raise WrongVault(
            f"{store.identity} belongs to another database, {', '.join(map(str, sorted(others)))}",
            hint="choose an empty place",
        )


def _open(store: ObjectStore, control: Control) -> None:
    """The epoch of the new place is the one that the database is at."""
    assert control.owner is not None and control.nonce is not None
    claim_prefix(store, control.owner)
    _, raw = read_mark(store, control.owner)
    mark = Mark.now(control.epoch, control.nonce)
    if not store.compare_and_swap(epoch_key(control.owner), raw, mark.encode()):
        raise WrongVault(f"somebody else writes to {store.identity}", hint="try again")


def _close(store: ObjectStore, owner: uuid.UUID, moved_to: str) -> None:
    """Leave a pointer to the new place for older copies of the database."""
    found, raw = read_mark(store, owner)
    if found is None or found.moved_to == moved_to:
        return
    mark = Mark.now(found.epoch + 1, uuid.uuid4(), moved_to)
    if not store.compare_and_swap(epoch_key(owner), raw, mark.encode()):
        raise WrongVault(
            f"the epoch at {store.identity} changed while the vault was moved",
            hint="another copy of this database is at work there; move again once it is stopped",
        )


@dataclass(slots=True)
class _Copying:
    """Objects on their way. With ``replaces`` documents that differ are written again."""

    old: ObjectStore
    new: ObjectStore
    sums: dict[str, str | None]
    progress: Progress | None
    replaces: bool
    objects: int = 0
    bytes: int = 0
    already: int = 0

    def run(self) -> None:
        infos = [one for one in self.old.list("") if not one.key.startswith(_OF_THE_PLACE)]
        there = {one.key: one for one in self.new.list("")}
        wanted = [one for one in infos if not self._is_there(one, there.get(one.key))]
        self.already = len(infos) - len(wanted)
        for batch in _batches(wanted, getattr(self.new, "batch", 1)):
            with workdir() as folder:
                self._copy(batch, there, folder)
            if self.progress is not None:
                self.progress(self.objects, len(wanted), batch[-1].key)

    def _is_there(self, info: ObjectInfo, found: ObjectInfo | None) -> bool:
        if found is None:
            return False
        if info.key.startswith(_IMMUTABLE):
            return found.size == info.size
        if not self.replaces:
            return True  # documents are written there by now
        return found.size == info.size and self.new.get_bytes(info.key) == self.old.get_bytes(
            info.key
        )

    def _copy(self, batch: list[ObjectInfo], there: dict[str, ObjectInfo], folder: Path) -> None:
        fetched = [(info.key, self._fetch(info, folder / str(n))) for n, info in enumerate(batch)]
        copies = [(key, path) for key, path in fetched if path is not None]
        fresh = [(key, path) for key, path in copies if key not in there]
        self.new.put_files(fresh)
        for key, path in copies:
            if key in there:
                with path.open("rb") as content:
                    self.new.put_many([(key, content)])
        for key, path in copies:
            found = self.new.stat(key)
            if found is None or found.size != path.stat().st_size:
                raise VerificationFailed(
                    f"{key} is not what was copied", path=key, hint="move again; nothing was lost"
                )
            self.objects += 1
            self.bytes += found.size

    def _fetch(self, info: ObjectInfo, path: Path) -> Path | None:
        """A copy on this machine, compared with the ledger; None for what was deleted meanwhile."""
        content = self.old.open(info.key)
        if content is None:
            return None
        digest = hashlib.sha256()
        with content, path.open("wb") as copy:
            while chunk := content.read(_COPY_BYTES):
                digest.update(chunk)
                copy.write(chunk)
        known = self.sums.get(info.key)
        if known is not None and digest.hexdigest() != known:
            raise VerificationFailed(
                f"{info.key} has SHA-256 {digest.hexdigest()}, written was {known}",
                path=info.key,
                hint="run `atlas vault fsck --deep`; the vault was not moved",
            )
        return path


def _batches(infos: Iterable[ObjectInfo], most: int) -> Iterator[list[ObjectInfo]]:
    """Objects by what goes in one put."""
    batch: list[ObjectInfo] = []
    size = 0
    for info in infos:
        batch.append(info)
        size += info.size
        if len(batch) >= max(most, 1) or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
