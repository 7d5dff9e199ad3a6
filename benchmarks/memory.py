"""Peak memory and rate of archiving one slice, from a quarter of a million rows to twenty million.

Each in a process of its own, whose peak resident memory the system tells; PostgreSQL is not counted.

Usage: python -m benchmarks memory, or for one slice: python -m benchmarks.memory DATABASE_URL FOLDER
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.repositories.hot.partitions import Partitions
from atlas.vault import LocalVault
from benchmarks.support import Result, fill_samples, stopwatch

SLICES = (250_000, 500_000, 750_000, 1_000_000, 4_000_000, 20_000_000)


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    day = datetime.now(UTC) - timedelta(days=10)
    results: list[Result] = []
    rate_of_first = 0.0
    for number, size in enumerate(SLICES):
        async with database.transaction() as session:
            await Partitions(session).ensure([day], 24)
        await fill_samples(database, size, videos=100_000)
        url = await database.libpq_url()
        told = await asyncio.to_thread(_in_a_child, url, folder, f"vault-{number}")
        assert told["slices"] == 1, told
        rate = told["rows"] / told["seconds"]
        rate_of_first = rate_of_first or rate
        results += [
            Result(
                f"peak memory, slice of {size:,}",
                told["peak"] / 1e6,
                "500 MB",
                500,
                "MB",
                1,
                most=True,
            ),
            Result(f"rate, slice of {size:,}", rate, f"slice of {SLICES[0]:,}", rate_of_first),
        ]
        # a ledger of another vault would be refused
        async with database.transaction() as session:
            await session.execute(text("TRUNCATE archive_files"))
            await session.execute(
                text(
                    "UPDATE archive_control SET vault = null, owner = null, nonce = null, epoch = 0"
                )
            )
    return results


def _in_a_child(url: str, folder: Path, vault: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", url, str(folder / vault)]
    environment = os.environ | {"ATLAS_HOME": str(folder / "home")}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


async def _archive(url: str, folder: str) -> dict[str, float]:
    database = Database(url)
    try:
        with stopwatch() as watch:
            report = await Archiver(database, LocalVault(Path(folder))).run(timedelta(days=7))
    finally:
        await database.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": report.rows,
        "slices": report.slices,
        "seconds": watch.seconds,
        "peak": peak,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_archive(*sys.argv[1:]))))
