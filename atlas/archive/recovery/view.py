"""What the vault holds beside what the ledger says; changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from atlas.archive.maintenance.fsck import stored
from atlas.archive.recovery.examination import NOT_WHOLE, Footer, look_at, raise_if_no_damage
from atlas.db import Database
from atlas.repositories.ledger.adoption import LedgerAdoption
from atlas.repositories.ledger.files import OPEN_STATES, FileRecord, LedgerReader
from atlas.tables.archived import Origin, archived
from atlas.types import ArchiveState, Dataset, ObjectStore
from atlas.vault.offload import offload
from atlas.vault.records import read_condemned

_LOOKS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class View:
    """What the vault holds beside what the ledger says.

    ``found`` are own files that the ledger does not name, ``left`` files of jobs that died, ``missing``
    files that should count and are not there. ``skipped`` are objects that are not this database's, or
    incomplete.
    """

    ledger: dict[str, FileRecord]
    condemned: frozenset[str]
    found: dict[str, Footer]
    left: list[FileRecord]
    missing: list[FileRecord]
    skipped: dict[str, str]

    @property
    def is_undisturbed(self) -> bool:
        """Whether ledger and vault name the same files, and no job died."""
        return not (self.found or self.left or self.missing)

    def counts(self, keys: Iterable[str]) -> bool:
        """Whether all of these files count and are there."""
        missing = {file.object_key for file in self.missing}
        return all(
            key in self.ledger
            and self.ledger[key].state == ArchiveState.LIVE
            and key not in missing
            for key in keys
        )

    @property
    def highest_seq(self) -> int:
        """The highest ``seq`` of samples that the ledger knows."""
        seqs = (one.seq for one in self.ledger.values() if one.dataset == Dataset.STATS)
        return max(seqs, default=0)


async def look(database: Database, store: ObjectStore, owner: uuid.UUID, *, again: bool) -> View:
    """Compare vault and ledger by names, and read the footers of what the ledger does not name.

    What was found to be no file of this database is not looked at ``again`` unless asked for.
    """
    # condemned objects before the listing: one that is in neither was deleted before
    condemned = frozenset[str]().union(*(await offload(read_condemned, store, owner)).values())
    # the listing before the ledger: an object of this database has its name there before it exists
    there = {info.key for info in await offload(stored, store)}
    async with database.transaction(read_only=True) as session:
        ledger = {file.object_key: file for file in await LedgerReader(session).all_files()}
        unclaimed = frozenset() if again else await LedgerAdoption(session, 0).unclaimed()
    unnamed = sorted(key for key in there - ledger.keys() - unclaimed if _is_data(key))
    found, skipped = await offload(_footers, store, unnamed, owner)
    counting = [
        file
        for file in ledger.values()
        if file.state == ArchiveState.LIVE and archived(file.dataset).origin is not Origin.APPENDED
    ]
    suspects = [file for file in counting if file.object_key not in there - condemned]
    return View(
        ledger,
        condemned,
        found,
        [f for f in ledger.values() if f.state in OPEN_STATES and f.relation is None],
        await offload(_missing, store, suspects, condemned),
        skipped,
    )


def _is_data(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name.endswith(".parquet") and not name.startswith(("_", "."))


def _footers(
    store: ObjectStore, keys: Sequence[str], owner: uuid.UUID
) -> tuple[dict[str, Footer], dict[str, str]]:
    """The footers of own files, oldest seq first, and why the others are none."""
    skipped: dict[str, str] = {}

    def read(key: str) -> Footer | None:
        footer = None
        for left in (1, 0):
            try:
                footer = look_at(store, key)
                break
            except NOT_WHOLE as error:
                raise_if_no_damage(error)
                if not left:
                    skipped[key] = f"not a whole file of Atlas: {error}"
                    return None
        if footer is not None and footer.owner != owner:
            skipped[key] = f"it belongs to another database, {footer.owner}"
            return None
        return footer

    with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="atlas-footers") as pool:
        read_footers = list(pool.map(read, keys))
    own = [
        (key, footer) for key, footer in zip(keys, read_footers, strict=True) if footer is not None
    ]
    return dict(sorted(own, key=lambda one: one[1].new.seq)), skipped


def _missing(
    store: ObjectStore, suspects: Sequence[FileRecord], condemned: frozenset[str]
) -> list[FileRecord]:
    """Those that are gone, or may be at any moment."""
    return [
        file
        for file in suspects
        if file.object_key in condemned or store.stat(file.object_key) is None
    ]
