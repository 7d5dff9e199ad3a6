"""Making the ledger again from the files: for a database that was lost with it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from atlas.archive.recovery.adoption import adopt
from atlas.db import Database
from atlas.errors import Conflict, InvalidInput
from atlas.repositories.ledger.files import LedgerReader
from atlas.types import ObjectStore, Progress


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What the new ledger names; ``skipped`` are objects that could not be taken, each with its reason.

    ``stale_rows`` hot rows were kept aside because the files have later ones.
    """

    owner: str
    files: int
    rows: int
    bytes: int
    epoch: int
    skipped: tuple[str, ...] = ()
    stale_rows: int = 0


async def rebuild(
    database: Database,
    store: ObjectStore,
    fence: int,
    owner: uuid.UUID | None,
    progress: Progress | None,
) -> RebuildReport:
    """Adopt the vault with a database that never archived; see `Archiver.rebuild`."""
    async with database.transaction(read_only=True) as session:
        control = await LedgerReader(session).control()
    # one that died had no epoch yet
    if control.nonce is not None:
        raise Conflict(
            "this database has a ledger already",
            hint="run `atlas vault adopt`, or rebuild into a new database after `atlas db upgrade`",
        )
    report = await adopt(database, store, fence, owner, progress=progress)
    if not report.files and owner is None and report.other is None:
        raise InvalidInput(
            "the vault holds files of 0 databases", field="owner", hint="check the VAULT_* settings"
        )
    return RebuildReport(
        report.owner,
        report.files,
        report.rows,
        report.bytes,
        report.epoch,
        report.skipped,
        report.stale_rows,
    )
