"""``atlas keys`` and ``atlas events``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import typer

from atlas.cli.output import answer, moment, number, out, run, table
from atlas.errors import ConfigurationError


def keys(
    json: bool = typer.Option(False, "--json", help="One JSON document for programs.")
) -> None:
    """Show the rings of API keys, masked."""
    from atlas.config import POOLS
    from atlas.keys import KeyRing

    rings = {}
    for pool in POOLS:
        # a ring may be empty by the settings; `atlas doctor` says what to set
        with suppress(ConfigurationError):
            rings[pool] = [asdict(one) for one in KeyRing(pool).status()]
    rows = [
        (pool, one["key"], one["project"], "no" if one["disabled"] else "yes")
        for pool, ring in rings.items()
        for one in ring
    ]
    answer(
        rings,
        json,
        lambda: out.print(table("API keys", ("ring", "key", "project", "usable"), rows)),
    )


def events(
    limit: int = typer.Option(20, "--limit", min=1, help="How many of the newest to show."),
    deliver: bool = typer.Option(False, "--deliver", help="Deliver due webhooks first."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Show recent events and what became of their webhooks."""
    from atlas.db import db
    from atlas.events import events as bus
    from atlas.repositories.events import EventLog, RecordedEvent

    async def work() -> tuple[int | None, list[RecordedEvent]]:
        delivered = await bus.deliver_pending() if deliver else None
        async with db.transaction(read_only=True) as session:
            return delivered, await EventLog(session).recent(limit)

    delivered, recent = run(work())
    rows = [
        (
            moment(one.created_at),
            one.event_type,
            one.entity_id,
            moment(one.delivered_at) or ("waiting" if one.deliver_at else "-"),
            one.last_error,
        )
        for one in recent
    ]

    def show() -> None:
        if delivered is not None:
            out.print(f"{number(delivered)} delivered")
        columns = ("time (UTC)", "event", "entity", "delivered", "last error")
        out.print(table("Events", columns, rows))

    answer({"delivered": delivered, "events": [asdict(one) for one in recent]}, json, show)
