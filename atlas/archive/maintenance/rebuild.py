"""Making the ledger again from the files: for a database that was lost with it."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from atlas.archive.export.samples import Bounds, read_back
from atlas.archive.fencing.epoch import adopt_vault
from atlas.archive.maintenance.fsck import owner_of, stored
from atlas.db import Database
from atlas.errors import Conflict, InvalidInput
from atlas.logging import get_logger
from atlas.repositories.ledger.files import FileFacts, NewFile
from atlas.repositories.ledger.rebuild import FoundFile, LedgerRebuilding
from atlas.tables.fingerprint import Fingerprint, rows_fingerprint
from atlas.tables.parquet import ROW_GROUP_ROWS
from atlas.tables.sample import stated_columns
from atlas.types import Dataset, ObjectInfo, ObjectStore, Progress
from atlas.vault.offload import offload
from atlas.vault.temporary import workdir

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What the new ledger names; ``skipped`` are objects that could not be taken, each with its reason."""

    owner: str
    files: int
    rows: int
    bytes: int
    epoch: int
    skipped: tuple[str, ...] = ()


async def rebuild(
    database: Database,
    store: ObjectStore,
    fence: int,
    owner: uuid.UUID | None,
    progress: Progress | None,
) -> RebuildReport:
    """Read every file of an owner and write its ledger row; see `Archiver.rebuild`."""
    async with database.transaction(read_only=True) as session:
        if not await LedgerRebuilding(session, fence).is_unused():
            raise Conflict(
                "this database has a ledger already",
                hint="rebuild into an empty one: a new database after `atlas db upgrade`",
            )
    objects = await offload(_owned, store, owner)
    owner = objects.owner
    found: dict[tuple[Dataset, int], FoundFile] = {}
    skipped: list[str] = []
    for number, info in enumerate(objects.infos):
        if progress is not None:
            progress(number, len(objects.infos), info.key)
        with workdir() as folder:
            try:
                file = await offload(_examine, store, info, folder)
            except (pa.ArrowException, OSError, EOFError, KeyError, ValueError) as error:
                log.warning("rebuild_object_skipped", key=info.key, error=str(error))
                skipped.append(f"{info.key}: {error}")
                continue
        key = (file.new.dataset, file.new.seq)
        if key in found:
            # a run that died wrote the same slice twice; either will do, and clean-up takes the other
            skipped.append(f"{info.key}: the same slice as {found[key].new.object_key}")
        else:
            found[key] = file
    async with database.transaction() as session:
        ledger = LedgerRebuilding(session, fence)
        await ledger.hold()
        await ledger.take_over(owner, store.identity, list(found.values()))
    control = await adopt_vault(database, store, fence)
    log.info("ledger_rebuilt", files=len(found), skipped=len(skipped))
    return RebuildReport(
        str(owner),
        len(found),
        sum(file.facts.row_count for file in found.values()),
        sum(file.facts.byte_size for file in found.values()),
        control.epoch,
        tuple(skipped),
    )


@dataclass(frozen=True, slots=True)
class _Owned:
    owner: uuid.UUID
    infos: list[ObjectInfo]


def _owned(store: ObjectStore, wanted: uuid.UUID | None) -> _Owned:
    """The objects of one owner: the one that is asked for, or the only one there is."""
    marked = [(info, owner_of(store, info.key)) for info in stored(store)]
    owners = Counter(owner for _, owner in marked if owner is not None)
    if wanted is None and len(owners) != 1:
        listed = ", ".join(f"{owner} ({files} files)" for owner, files in owners.most_common())
        raise InvalidInput(
            f"the vault holds files of {len(owners)} databases{': ' if listed else ''}{listed}",
            field="owner",
            hint="say whose ledger is to be rebuilt" if owners else "check the VAULT_* settings",
        )
    owner = wanted or uuid.UUID(next(iter(owners)))
    # in the order in which they were made, so that what is late can be told
    infos = [info for info, mark in marked if mark == str(owner)]
    if not infos:
        raise InvalidInput(f"the vault holds no file of {owner}", field="owner", value=str(owner))
    return _Owned(owner, sorted(infos, key=lambda info: info.key))


def _examine(store: ObjectStore, info: ObjectInfo, folder: Path) -> FoundFile:
    """Read an object whole and compare it with its own footer. ValueError and its like say what is wrong."""
    fetched = read_back(store, info.key, folder)
    if fetched is None:
        raise ValueError("it vanished while it was read")
    path, sha256 = fetched
    with pq.ParquetFile(path) as file:
        footer = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
        dataset = Dataset(footer["atlas.dataset"])
        collected: list[str] = []
        if dataset is Dataset.VIDEOS:
            table = file.read()
            collected = table["id"].to_pylist()
            ids = pc.min_max(table["id"]).as_py()
            facts = FileFacts(
                table.num_rows,
                path.stat().st_size,
                sha256,
                rows_fingerprint(table),
                None,
                None,
                ids["min"],
                ids["max"],
            )
        else:
            samples, seen = Fingerprint(stated_columns(file.metadata.metadata or {})), Bounds()
            for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS):
                samples.update(batch)
                seen.see(batch)
                seen.see_sorted(batch)
            facts = FileFacts(
                samples.rows,
                path.stat().st_size,
                sha256,
                samples.hex,
                seen.min_timestamp,
                seen.max_timestamp,
                seen.min_video_id,
                seen.max_video_id,
            )
    if (str(facts.row_count), facts.fingerprint) != (
        footer["atlas.rows"],
        footer["atlas.fingerprint"],
    ):
        raise ValueError("its rows are not those that its footer tells of")
    return FoundFile(
        NewFile(
            dataset,
            info.key,
            store.identity,
            int(footer["atlas.seq"]),
            datetime.fromisoformat(footer["atlas.slice_start"]),
            datetime.fromisoformat(footer["atlas.slice_end"]),
            uuid.UUID(footer["atlas.batch_id"]),
            merged=footer.get("atlas.merged") == "true",
        ),
        facts,
        collected,
    )
