"""The vault that version 0.1 wrote, and a database that it belongs to."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

from sqlalchemy import text

from atlas.db import Database
from atlas.vault import LocalVault
from tests.support.samples import Counters, Key

FIXTURE = Path(__file__).parent.parent / "fixtures" / "vault_0_1"


def copied(folder: Path) -> LocalVault:
    """A copy to work in; the fixture itself is never written to."""
    shutil.copytree(FIXTURE / "vault", folder)
    return LocalVault(folder)


async def ledger_of_its_time(database: Database, vault: LocalVault) -> None:
    """Have a migrated, empty database name the files as the one that wrote them did."""
    shown = (FIXTURE / "ledger.json").read_text().replace("file:///vault", vault.identity)
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM archive_control"))
        for table, rows in json.loads(shown).items():
            # columns that came later take their defaults
            names = ", ".join(rows[0])
            await session.execute(
                text(
                    f"INSERT INTO {table} ({names}) SELECT {names} "
                    f"FROM json_populate_recordset(null::{table}, CAST(:rows AS json))"
                ),
                {"rows": json.dumps(rows)},
            )


def expected() -> dict[Key, Counters]:
    """What readers must show."""
    rows = json.loads((FIXTURE / "expected.json").read_text())
    return {
        (video_id, datetime.fromisoformat(moment)): tuple(counters)
        for video_id, moment, *counters in rows
    }
