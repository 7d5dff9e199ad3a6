"""The leases of every kind of work, as they lie in the tables."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from atlas.db import Database
from tests.support.sql import execute, fetch

Kind = Literal["hunt", "track", "retrack", "transcript", "visuals"]

#: Where the leases of each kind are: table, key, prefix of the columns.
PLACES: dict[Kind, tuple[str, str, str]] = {
    "hunt": ("search_queue", "id", ""),
    "track": ("watchlist", "video_id", ""),
    "retrack": ("videos", "id", "stats_"),
    "transcript": ("videos", "id", "transcript_"),
    "visuals": ("videos", "id", "visuals_"),
}
every_kind = pytest.mark.parametrize("kind", PLACES)

#: A row that nobody has.
FREE = {"lease": None, "attempts": 0, "error": None, "quarantined": None, "seconds": None}

_WORDS = {
    "SearchItem": "hunt",
    "TrackItem": "sampled",
    "RetrackItem": "sampled",
    "CollectItem": "collected",
}


async def leases(database: Database, kind: Kind) -> list[dict[str, Any]]:
    table, key, prefix = PLACES[kind]
    return await fetch(
        database,
        f"SELECT {prefix}lease AS lease, {prefix}attempts AS attempts, {prefix}error AS error, "
        f"{prefix}leased_until = 'infinity' AS quarantined, "
        f"extract(epoch FROM {prefix}leased_until - clock_timestamp())::float AS seconds "
        f"FROM {table} ORDER BY {key}",
    )


async def expire(database: Database, kind: Kind, attempts: int | None = None) -> None:
    table, _, prefix = PLACES[kind]
    await execute(
        database,
        f"UPDATE {table} SET {prefix}leased_until = now() - interval '1 second'"
        + ("" if attempts is None else f", {prefix}attempts = {attempts}")
        + f" WHERE {prefix}leased_until IS NOT NULL",
    )


def finish(item: Any) -> None:
    """Say that the work of any kind is done."""
    match _WORDS[type(item).__name__]:
        case "hunt":
            item.done("next", 5)
        case "sampled":
            item.done(views=7)
        case _:
            item.done()
