"""Claims, ingest and histories through PgBouncer in transaction mode, beside a direct connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atlas.config import reset_settings
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.vault import LocalVault
from benchmarks.support import Result, stopwatch
from benchmarks.workers.claiming import rate_of_work
from benchmarks.workers.ingesting import samples
from tests.support.servers import pgbouncer

_WORKERS = 8
#: What is compared takes turns so many times.
_ROUNDS = 3
_BATCH = 1_000
_HISTORIES = 400
_SERVER_CONNECTIONS = 10


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """``rows`` are those of an ingest, at most 50,000 a round."""
    rows = min(rows, 50_000)
    seconds: dict[tuple[str, str], float] = {}
    base = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    vault = LocalVault(folder / "vault", home=folder / "home")
    url = await database.libpq_url()
    with pgbouncer.running(url, f"default_pool_size = {_SERVER_CONNECTIONS}") as pooled:
        for turn in range(2 * _ROUNDS):
            mode = ("session", "transaction")[turn % 2]
            async with _reached(pooled if mode == "transaction" else url, mode) as one:
                for what, measured in (
                    ("claims", 1 / await rate_of_work(one, _WORKERS)),
                    ("ingest", await _ingest(one, base - timedelta(days=turn + 1), rows) / rows),
                    ("histories", await _read(one, vault) / _HISTORIES),
                ):
                    seconds[what, mode] = seconds.get((what, mode), 0.0) + measured / _ROUNDS
    return [
        Result(
            f"{what} through PgBouncer",
            1 / seconds[what, "transaction"],
            "direct",
            1 / seconds[what, "session"],
            unit,
        )
        for what, unit in (("claims", "rows/s"), ("ingest", "rows/s"), ("histories", "calls/s"))
    ]


@contextlib.asynccontextmanager
async def _reached(url: str, mode: str) -> AsyncIterator[Database]:
    os.environ["DATABASE_POOL_MODE"] = mode
    reset_settings()
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()
        del os.environ["DATABASE_POOL_MODE"]
        reset_settings()


async def _ingest(database: Database, start: datetime, rows: int) -> float:
    made = samples(rows, start)
    await record_samples(database, made[:1])
    with stopwatch() as watch:
        for first in range(0, rows, _BATCH):
            await record_samples(database, made[first : first + _BATCH])
    return watch.seconds


async def _read(database: Database, vault: LocalVault) -> float:
    reader = StatsReader(database, vault)
    left = _HISTORIES

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            assert (await reader.history(f"vid{left:08d}")).num_rows

    with stopwatch() as watch:
        await asyncio.gather(*(caller() for _ in range(_WORKERS)))
    return watch.seconds
