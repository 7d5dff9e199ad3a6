"""``atlas doctor``: is everything in order, and if not, what mends it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import typer
from rich.table import Table
from rich.text import Text

from atlas.cli.output import answer, out, run, waiting
from atlas.errors import AtlasError

#: Seconds of difference between this machine's clock and the database's that nobody needs to mend.
_SKEW = 5.0
#: Seconds that a webhook's host may take to accept a connection.
_PATIENCE = 5.0


#: What a check found, and perhaps advice.
Check: TypeAlias = Callable[[], Awaitable[str | tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do where it is not ``ok``."""

    check: str
    ok: bool
    found: str
    mend: str = ""
    #: Not looked at: this machine does not do it, or what it needs is wrong already.
    skipped: bool = False


class _Skipped(Exception):
    """The check does not concern this machine."""


def doctor(
    json: bool = typer.Option(False, "--json", help="One JSON document for programs.")
) -> None:
    """Check settings, database, clocks, vault, keys and webhooks; exit 1 if something needs mending.

    Exit 0: nothing to do, for a monitor too. What this machine does not do is skipped.
    """
    findings = run(examine())

    def show() -> None:
        for one in findings:
            mark, style = ("skip", "dim") if one.skipped else ("ok", "green")
            if not one.ok:
                mark, style = "wrong", "red"
            lines = Table.grid(padding=(0, 2))
            lines.add_column(width=5)
            lines.add_column(overflow="fold")
            found = f"{one.check}: {one.found}" + (f"\n→ {one.mend}" if one.mend else "")
            lines.add_row(Text(mark, style), Text(found))
            out.print(lines)

    answer([asdict(one) for one in findings], json, show)
    if not all(one.ok for one in findings):
        raise typer.Exit(1)


async def examine() -> list[Finding]:
    """Every check, in the order in which they depend on each other."""
    found: dict[str, Finding] = {}
    for name, (check, needs) in CHECKS.items():
        wrong = [need for need in needs if need in found and not found[need].ok]
        wrong = wrong or [need for need in needs if need in found and found[need].skipped]
        if wrong:  # one row a cause
            found[name] = Finding(name, True, f"not checked: see {wrong[0]}", skipped=True)
        else:
            found[name] = await _examine(name, check)
        if name == "settings" and not found[name].ok:  # no other check can run without them
            break
    return list(found.values())


async def _examine(name: str, check: Check) -> Finding:
    try:
        found = await check()
        return Finding(name, True, *([found] if isinstance(found, str) else found))
    except _Skipped as why:
        return Finding(name, True, str(why), skipped=True)
    except AtlasError as error:
        return Finding(name, False, error.message, error.hint or "")


async def _settings() -> str:
    from atlas.config import get_settings

    return f"ENV={get_settings().env}, files under {get_settings().atlas_home}"


async def _database() -> str:
    from atlas.db import db
    from atlas.db.administration.examination import server_version

    return f"PostgreSQL {await server_version(db)}"


async def _pooler() -> str:
    from atlas.db import db
    from atlas.db.administration.examination import examine_pooler

    return await examine_pooler(db)


async def _sessions() -> tuple[str, str]:
    from atlas.db import db
    from atlas.db.administration.examination import examine_sessions

    return await examine_sessions(db)


async def _access() -> str:
    from atlas.db import db
    from atlas.db.administration.examination import examine_access

    return await examine_access(db)


async def _migrations() -> str:
    from atlas.db import db
    from atlas.db.administration import migrations

    return f"at {await migrations.check(db)}, the newest"


async def _clock() -> str:
    from atlas.db import db
    from atlas.db.clock import clock

    begun = datetime.now(UTC)
    async with db.transaction(read_only=True) as session:
        theirs = await clock(session)
    ours = begun + (datetime.now(UTC) - begun) / 2
    skew = (theirs - ours).total_seconds()
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
                    f"{vault.identity} returns other content than was written",
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
    from atlas.config import get_settings
    from atlas.config.keys import POOLS
    from atlas.keys import KeyRing

    settings = get_settings()
    total = len(settings.youtube_api_keys)
    if not total:
        raise _Skipped(
            "none is configured (YOUTUBE_API_KEY_POOL_JSON): this machine makes no API calls"
        )
    if settings.compliance_mode:
        return f"{total} configured, the first one used (COMPLIANCE_MODE)"
    rings = ", ".join(f"{pool} {KeyRing(pool).size}" for pool in POOLS)
    return f"{total} configured: {rings}"


async def _webhook() -> str:
    from atlas.config import get_settings

    settings = get_settings()
    if not settings.event_bus_enabled or settings.event_bus_webhook_url is None:
        raise _Skipped("EVENT_BUS_WEBHOOK_URL is not set: events stay in the database")
    host = await _connect(
        settings.event_bus_webhook_url.get_secret_value(), "EVENT_BUS_WEBHOOK_URL"
    )
    if settings.event_bus_webhook_secret is None:
        raise AtlasError(
            f"{host} answers, but bodies are sent without a signature",
            hint="set EVENT_BUS_WEBHOOK_SECRET=whsec_<base64 of 24 bytes or more>",
        )
    return f"{host} answers"


async def _discord() -> str:
    from atlas.config import get_settings

    settings = get_settings()
    names = [f"discord_webhook_{one}" for one in ("alerts", "hunt", "surveillance", "ops")]
    urls = {name.upper(): getattr(settings, name) for name in names}
    hosts = [
        await _connect(url.get_secret_value(), name)
        for name, url in urls.items()
        if url is not None
    ]
    if not hosts:
        raise _Skipped("DISCORD_WEBHOOK_ALERTS is not set: nobody is notified")
    return f"{', '.join(sorted(set(hosts)))}: {len(hosts)} of {len(urls)} channels"


async def _connect(url: str, variable: str) -> str:
    """Open and close a connection to a webhook's host, whose name is returned; nothing is sent."""
    from urllib.parse import urlsplit

    from atlas.webhook_client import check_url

    parts = urlsplit(check_url(url.strip(), variable))
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    except OSError as error:  # a time-out too
        why = error.strerror or "no answer in time"
        raise AtlasError(
            f"the host of {variable}, {host}, cannot be reached: {why}",
            hint=f"check {variable} and this machine's network",
        ) from error
    return host


#: Each check by name, and the checks that it depends on, in an order in which those come first.
CHECKS: dict[str, tuple[Check, tuple[str, ...]]] = {
    "settings": (_settings, ()),
    "database": (_database, ("settings",)),
    "pooler": (_pooler, ("settings", "database")),
    "sessions": (_sessions, ("settings", "database")),
    "migrations": (_migrations, ("settings", "database", "sessions")),
    "access": (_access, ("settings", "database", "migrations")),
    "clock": (_clock, ("settings", "database")),
    "vault": (_vault, ("settings",)),
    "ledger and vault": (_epoch, ("settings", "database", "migrations", "vault")),
    "appended metrics": (_metrics, ("settings", "database", "migrations", "vault")),
    "keys": (_keys, ("settings",)),
    "webhook": (_webhook, ("settings",)),
    "Discord": (_discord, ("settings",)),
}
