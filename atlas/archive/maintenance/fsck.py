"""Comparing ledger and store, and removing what the ledger calls dead."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import pyarrow.parquet as pq

from atlas.archive.export.samples import read_back
from atlas.archive.session import Steps
from atlas.logging import get_logger
from atlas.reading.appended import appended_files
from atlas.reading.cold import why_left_out
from atlas.repositories.hot.snapshot import Selection
from atlas.repositories.ledger.files import FileRecord
from atlas.repositories.ledger.swap import Replacement
from atlas.tables.archived import Origin, archived, of_origin
from atlas.tables.parquet import UNDECODABLE
from atlas.types import ArchiveState, ObjectInfo, ObjectStore, Progress
from atlas.vault.metrics import is_name_of_rows
from atlas.vault.offload import offload
from atlas.vault.records import read_condemned
from atlas.vault.temporary import workdir

log = get_logger(__name__)

#: Folders whose every file the ledger names. Appended metrics are named by nobody and never touched.
_LEDGER_FOLDERS = tuple(
    table.dataset for table in of_origin(Origin.HOT, Origin.FINISHED, Origin.PARKED)
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between ledger and store: what it is, what it means, and what to do."""

    key: str
    kind: str
    meaning: str
    advice: str


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What clean-up removed (or would have): objects and bytes.

    ``replaced`` counts those that had been replaced; the others had been given up, and arrived late. ``kept``
    are objects that do not count and stay: another owner's, unknown to the ledger, or too young.
    """

    keys: tuple[str, ...] = ()
    bytes: int = 0
    kept: int = 0
    replaced: int = 0


async def clean_up(steps: Steps, older_than: timedelta, *, dry_run: bool) -> GarbageReport:
    """Delete what the ledger calls retired or gone, past the grace period; nothing else."""
    store = steps.store
    objects = await offload(stored, store)
    async with steps.database.transaction() as session:
        ledger = Replacement(session, steps.fence)
        await ledger.hold()
        named = {file.object_key for file in await ledger.named_files()}
        expired = await ledger.expired(older_than)
        gone = await ledger.gone_keys()
    announced = await offload(read_condemned, store, steps.owner)
    found = await offload(lambda: list(garbage(store, objects, gone, older_than)))
    used_again = await offload(lambda: [file for file in expired if was_written_again(store, file)])
    expired = [file for file in expired if file not in used_again]
    keys = (*(file.object_key for file in expired), *(info.key for info in found))
    if not dry_run:
        await steps.delete_files(expired, [info.key for info in found])
        if used_again:
            async with steps.database.transaction() as session:
                replacement = Replacement(session, steps.fence)
                await replacement.hold()
                await replacement.gone(used_again)
        await offload(_clear, store, announced)
    log.info("garbage_collected", objects=len(keys), dry_run=dry_run)
    return GarbageReport(
        keys,
        sum(info.size for info in found) + sum(file.facts.byte_size for file in expired),
        unnamed(objects, named) - len(found),
        len(expired),
    )


def was_written_again(store: ObjectStore, file: FileRecord) -> bool:
    """Whether another program has put other content under the name of an adopted object since.

    Names of ``append_metrics`` say what is in them; others, such as the ``stats.parquet`` of the platform's
    first version, may be used again. Such an object is new: it is forgotten, not deleted.
    """
    name = file.object_key.rsplit("/", 1)[-1]
    if (
        archived(file.dataset).origin is not Origin.APPENDED
        or not file.sha256
        or is_name_of_rows(name)
    ):
        return False
    with workdir() as folder:
        fetched = read_back(store, file.object_key, folder)
    return fetched is not None and fetched[1] != file.sha256


def garbage(
    store: ObjectStore, objects: list[ObjectInfo], gone: frozenset[str], older_than: timedelta
) -> Iterator[ObjectInfo]:
    """Objects that the ledger calls gone, older than the grace period: puts that were given up."""
    before = datetime.now(UTC) - older_than
    for info in objects:
        if info.key not in gone:
            continue
        # the Hub's listings contain no times, the metadata of one object does
        seen = info if info.modified_at else store.stat(info.key)
        if seen is not None and seen.modified_at is not None and seen.modified_at <= before:
            yield info


def _clear(store: ObjectStore, announced: Mapping[str, Collection[str]]) -> None:
    """Remove the announcements of deletions that died, once their objects are gone."""
    store.delete(
        name for name, keys in announced.items() if all(store.stat(key) is None for key in keys)
    )


def unnamed(objects: list[ObjectInfo], named: set[str]) -> int:
    """How many objects nothing names."""
    return sum(info.key not in named for info in objects)


def stored(store: ObjectStore) -> list[ObjectInfo]:
    """Every object in the folders that the ledger describes."""
    return [info for folder in _LEDGER_FOLDERS for info in store.list(str(folder))]


def owner_of(store: ObjectStore, key: str) -> str | None:
    """The owner mark in an object's footer; None where there is none or it cannot be read."""
    source: BinaryIO | None = store.open(key)
    if source is None:
        return None
    with source:
        try:
            metadata = pq.read_metadata(source).metadata or {}
        except UNDECODABLE:
            return None
    mark = metadata.get(b"atlas.owner")
    return None if mark is None else mark.decode()


def compare(
    store: ObjectStore,
    objects: list[ObjectInfo],
    files: list[FileRecord],
    gone: Collection[str],
    owner: uuid.UUID | None,
    *,
    deep: bool,
    report_progress: Progress,
) -> Iterator[Finding]:
    """What is wrong between the ledger's live files and the objects; ``deep`` reads every byte."""
    there = {info.key: info for info in objects}
    live = [file for file in files if file.state == ArchiveState.LIVE]
    for number, file in enumerate(live):
        report_progress(number, len(live), file.object_key)
        info = there.get(file.object_key)
        if info is None and store.stat(file.object_key) is None:
            yield Finding(
                file.object_key,
                "missing",
                f"{file.row_count} rows from {file.slice_start:%Y-%m-%d %H:%M} cannot be read",
                "restore the object from the store's versions or a backup",
            )
        elif info is not None and info.size != file.byte_size:
            yield _damaged(file, "size", f"{info.size} bytes, written were {file.byte_size}")
        elif difference := _footer_differs(store, file):
            yield _damaged(file, "footer", difference)
        elif deep and (difference := _checksum_differs(store, file)):
            yield _damaged(file, "checksum", difference)
    for file in files:
        if file.state == ArchiveState.ASIDE and file.object_key in there:
            yield _aside(file)
    named = {file.object_key for file in files}
    for key in sorted(there.keys() - named):
        yield _given_up(key) if key in gone else _unnamed(store, key, owner)
    yield from _left_out(store, frozenset(named))


def _footer_differs(store: ObjectStore, file: FileRecord) -> str | None:
    """What the footer says otherwise than the ledger; a ranged read or two."""
    source: BinaryIO | None = store.open(file.object_key)
    if source is None:
        return "it is gone"
    with source:
        try:
            metadata = pq.read_metadata(source)
        except UNDECODABLE as error:
            return f"its footer cannot be read: {error}"
    footer = metadata.metadata or {}
    for name, wanted in (
        ("atlas.seq", file.seq),
        ("atlas.rows", file.row_count),
        ("atlas.fingerprint", file.fingerprint),
    ):
        found = footer.get(name.encode(), b"").decode()
        if found != str(wanted):
            return f"its footer has {name} {found or 'not at all'}, the ledger {wanted}"
    if metadata.num_rows != file.row_count:
        return f"it has {metadata.num_rows} rows, the ledger {file.row_count}"
    return None


def _aside(file: FileRecord) -> Finding:
    return Finding(
        file.object_key,
        "aside",
        f"{file.row_count} rows of a copy of this database, set aside by `atlas vault adopt`: no reader of "
        "Atlas shows them, programs that read the folder do",
        "once nobody needs them, delete the object by hand",
    )


def _given_up(key: str) -> Finding:
    return Finding(
        key,
        "leftover",
        "a run gave it up, and it arrived late: it never counted, and what it was made from was kept",
        "`atlas vault gc` removes it after the grace period",
    )


def _unnamed(store: ObjectStore, key: str, owner: uuid.UUID | None) -> Finding:
    mark = owner_of(store, key)
    if mark is not None and mark == str(owner):
        return Finding(
            key,
            "unnamed",
            "a file of this database that its ledger does not know: the database was restored or copied, and "
            "rows in here may lie nowhere else",
            "run `atlas vault adopt`, which takes it in; do not delete it",
        )
    if mark is not None:
        return Finding(
            key,
            "foreign",
            f"it belongs to another database, {mark}, that shares this vault",
            "leave it alone; programs that read the folder see its rows as well",
        )
    return Finding(
        key,
        "unreadable",
        "it is no whole Parquet file of Atlas: half-written, damaged or put there by hand",
        "look at it and delete it by hand: programs that read the folder stumble over it",
    )


def _left_out(store: ObjectStore, adopted: frozenset[str]) -> Iterator[Finding]:
    """Objects under ``metrics/`` that readers leave out, whole or in part."""
    for cold in appended_files(store, Selection(), adopted):
        if reason := why_left_out(store, cold):
            yield Finding(
                cold.object_key,
                "unreadable",
                f"it is not what append_metrics writes, and is not read: {reason}",
                "restore it from the store's versions if Atlas wrote it, else move it elsewhere",
            )


def _damaged(file: FileRecord, kind: str, difference: str) -> Finding:
    return Finding(
        file.object_key,
        kind,
        f"the object is not what was verified: {difference}",
        "restore the object from the store's versions or a backup; do not delete it",
    )


def _checksum_differs(store: ObjectStore, file: FileRecord) -> str | None:
    with workdir() as folder:
        fetched = read_back(store, file.object_key, folder)
    if fetched is None:
        return "it is gone"
    return None if fetched[1] == file.sha256 else f"SHA-256 {fetched[1]}, written was {file.sha256}"
