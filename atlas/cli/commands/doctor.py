"""``atlas doctor``: is everything in order, and if not, what mends it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import typer
from rich.text import Text

from atlas.cli.output import answer, out, run, table, waiting
from atlas.errors import AtlasError

#: Seconds of difference between this machine's clock and the database's that nobody needs to mend.
_SKEW = 5.0


#: What a check found, and perhaps advice.
Check: TypeAlias = Callable[[], Awaitable[str | tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do where it is not ``ok``."""

    check: str
    ok: bool
    found: str
    mend: str = ""


def doctor(
    json: bool = typer.Option(False, "--json", help="One JSON document for programs.")
) -> None:
    """Check settings, database, clocks, vault and keys; exit 1 if something needs mending."""
    findings = run(examine())
    rows = [
        (Text("ok", "green") if one.ok else Text("wrong", "red"), one.check, one.found, one.mend)
        for one in findings
    ]
    answer(
        [asdict(one) for one in findings],
        json,
        lambda: out.print(table("Atlas", ("", "check", "found", "what to do"), rows)),
    )
    if not all(one.ok for one in findings):
        raise typer.Exit(1)


async def examine() -> list[Finding]:
    """Every check, in the order in which they depend on each other."""
    checks: list[tuple[str, Check]] = [
        ("database", _database),
        ("pooler", _pooler),
        ("sessions", _sessions),
        ("migrations", _migrations),
        ("access", _access),
        ("clock", _clock),
        ("vault", _vault),
        ("ledger and vault", _epoch),
        ("appended metrics", _metrics),
        ("keys", _keys),
    ]
    settings = await _examine("settings", _settings)
    if not settings.ok:  # nothing else can be told from it
        return [settings]
    return [settings, *[await _examine(name, check) for name, check in checks]]


async def _examine(name: str, check: Check) -> Finding:
    try:
        found = await check()
        return Finding(name, True, *([found] if isinstance(found, str) else found))
    except AtlasError as error:
        return Finding(name, False, error.message, error.hint or "")


async def _settings() -> str:
    from atlas.config import get_settings

    return f"ENV={get_settings().env}, files under {get_settings().atlas_home}"


async def _database() -> str:
    from sqlalchemy import text

    from atlas.db import db

    async with db.transaction(read_only=True) as session:
        version = await session.scalar(text("SHOW server_version"))
    return f"PostgreSQL {version}"


async def _pooler() -> str:
    from atlas.db import db
    from atlas.db.examination import examine_pooler

    return await examine_pooler(db)


async def _sessions() -> tuple[str, str]:
    from atlas.db import db
    from atlas.db.examination import examine_sessions

    return await examine_sessions(db)


async def _access() -> str:
    from atlas.db import db
    from atlas.db.examination import examine_access

    return await examine_access(db)


async def _migrations() -> str:
    from atlas.db import db, migrations

    return f"at {await migrations.check(db)}, the newest"


async def _clock() -> str:
    from sqlalchemy import text

    from atlas.db import db

    begun = datetime.now(UTC)
    async with db.transaction(read_only=True) as session:
        theirs = await session.scalar(text("SELECT clock_timestamp()"))
    ours = begun + (datetime.now(UTC) - begun) / 2
    skew = (theirs - ours).total_seconds() if isinstance(theirs, datetime) else 0.0
    if abs(skew) > _SKEW:
        raise AtlasError(
            f"the database's clock is {skew:+.1f} s from this machine's",
            hint="set up time synchronisation: `seq` of appended metrics is this machine's clock",
        )
    return f"{skew:+.2f} s from the database's"


async def _vault() -> str:
    from atlas.vault import get_vault

    vault = get_vault()
    # among Atlas's own objects, which no reader of the data looks at
    key, content = f"_atlas/doctor/{uuid.uuid4().hex}", b"written by atlas doctor"

    def write_read_delete() -> None:
        vault.store.put_bytes(key, content)
        try:
            if vault.store.get_bytes(key) != content:
                raise AtlasError(
                    f"{vault.identity} gives back other content than was written",
                    hint="look at the store's health; do not archive into it",
                )
        finally:
            vault.store.delete([key])

    await asyncio.to_thread(write_read_delete)
    return f"{vault.identity}: written, read, deleted; {waiting(vault.pending())}"


async def _epoch() -> str:
    from atlas.archive.fencing.epoch import examine_epoch
    from atlas.db import db
    from atlas.vault import get_vault

    return await examine_epoch(db, get_vault().store)


async def _metrics() -> str:
    from atlas.db import db
    from atlas.reading.appended import appended_files
    from atlas.reading.cold import why_left_out
    from atlas.repositories.hot.snapshot import Selection
    from atlas.repositories.ledger.files import LedgerReader
    from atlas.types import Dataset
    from atlas.vault import get_vault

    store = get_vault().store
    async with db.transaction(read_only=True) as session:
        adopted = await LedgerReader(session).keys(Dataset.METRICS)
    found = await asyncio.to_thread(
        lambda: {
            cold.object_key: why_left_out(store, cold)
            for cold in appended_files(store, Selection(), adopted)
        }
    )
    wrong = [f"{key}: {reason}" for key, reason in found.items() if reason]
    if wrong:
        raise AtlasError(
            f"{len(wrong)} objects under metrics/ are not read, such as {wrong[0]}",
            hint="`atlas vault fsck` names all of them; move them elsewhere",
        )
    return f"{len(found)} files wait for compaction, all of them readable"


async def _keys() -> str:
    from atlas.config import POOLS, get_settings
    from atlas.keys import KeyRing

    settings = get_settings()
    total = len(settings.youtube_api_keys)
    if not total:
        raise AtlasError(
            "no YouTube API key is configured",
            hint="set YOUTUBE_API_KEY_POOL_JSON, unless this machine makes no API calls",
        )
    if settings.compliance_mode:
        return f"{total} configured, the first one used (COMPLIANCE_MODE)"
    rings = ", ".join(f"{pool} {KeyRing(pool).size}" for pool in POOLS)
    return f"{total} configured: {rings}"
