"""Runs every measurement (or those named) on a database of its own and prints one table.

Usage: python -m benchmarks [archive|ingest|claims|import|exports|encodings|read ...] [--rows N] [--days N]
       python -m benchmarks claims [--entries N N ...]
       python -m benchmarks adoption [--rows N]
       python -m benchmarks events [--rows N] [--seconds N]
       python -m benchmarks imports [--rows N]
       python -m benchmarks keys
       python -m benchmarks memory
       python -m benchmarks notifications
       python -m benchmarks poolers
       python -m benchmarks vaults [--rows N] [--documents N]
       python -m benchmarks month [--rows N]
       python -m benchmarks forever [--years N] [--videos N] [--days N] [--parts N] [--plots FOLDER]
       python -m benchmarks retention [--days N] [--videos N] [--hot-max-bytes N] [--plot PNG]

``adoption``, ``events``, ``keys``, ``memory``, ``notifications``, ``poolers``, ``vaults``, ``month``,
``forever`` and ``retention`` take minutes and run only when they are named.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from atlas.config import Settings
from atlas.db import Database
from atlas.logging import configure
from benchmarks import (
    adoption,
    archiving,
    encodings,
    events,
    exports,
    forever,
    importing,
    imports,
    keys,
    memory,
    month,
    notifications,
    poolers,
    reading,
    retention,
    vaults,
)
from benchmarks.support import Result, scratch_database
from benchmarks.workers import claiming, ingesting, scheduling

Suite = Callable[[Database, Path, int], Awaitable[list[Result]]]

SUITES: dict[str, Suite] = {
    "archive": archiving.measure,
    "ingest": ingesting.measure,
    "claims": claiming.measure,
    "import": importing.measure,
    "exports": exports.measure,
    "encodings": encodings.measure,
    "read": reading.measure,
    "scheduling": scheduling.measure,
}


async def run(suites: list[Suite], rows: int) -> list[Result]:
    results: list[Result] = []
    for suite in suites:
        with tempfile.TemporaryDirectory(prefix="atlas-bench-") as folder:
            async with scratch_database() as database:
                results += await suite(database, Path(folder), rows)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="SUITE",
        help=", ".join(
            [
                *SUITES,
                "adoption",
                "events",
                "imports",
                "keys",
                "memory",
                "notifications",
                "poolers",
                "vaults",
                "month",
                "forever",
                "retention",
            ]
        ),
    )
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the archive run")
    load = retention.Load()
    parser.add_argument(
        "--days",
        type=int,
        help="daily files of the read run (60), simulated days of retention "
        f"({load.days}) and forever ({forever.Load().days})",
    )
    parser.add_argument(
        "--entries",
        type=int,
        nargs="+",
        default=[100_000, 1_000_000],
        help="sizes of the watchlist of the claims run",
    )
    parser.add_argument("--documents", type=int, default=10_000, help="documents of the vaults run")
    parser.add_argument("--videos", type=int, default=load.videos_a_day, help="new videos a day")
    parser.add_argument("--hot-max-bytes", type=int, default=load.hot_max_bytes, help="the budget")
    parser.add_argument(
        "--plot", type=Path, default=Path("build/retention.png"), help="a PNG to be"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="that the events run waits out")
    parser.add_argument("--years", type=int, default=10, help="years of the forever run")
    parser.add_argument(
        "--parts", type=int, default=56, help="slices of the ring that forever fills, of 56"
    )
    parser.add_argument("--plots", type=Path, help="the folder of the plot of forever")
    parser.add_argument("--images", type=Path, help="where the plots of scheduling go")
    arguments = parser.parse_args()
    configure(Settings(env="test"))
    load = retention.Load(
        arguments.days or load.days, arguments.videos, arguments.hot_max_bytes, arguments.plot
    )
    years = forever.Load(
        arguments.years,
        arguments.videos,
        forever.Load().days if arguments.days is None else arguments.days,
        parts=arguments.parts,
        plots=arguments.plots,
    )
    known = SUITES | {
        "read": functools.partial(reading.measure, days=arguments.days or 60),
        "scheduling": functools.partial(scheduling.measure, images=arguments.images),
        "claims": functools.partial(claiming.measure, entries=arguments.entries),
        "adoption": adoption.measure,
        "events": functools.partial(events.measure, seconds=arguments.seconds),
        "imports": imports.measure,
        "keys": keys.measure,
        "memory": memory.measure,
        "notifications": notifications.measure,
        "poolers": poolers.measure,
        "vaults": functools.partial(vaults.measure, documents=arguments.documents),
        "month": month.measure,
        "forever": functools.partial(forever.measure, load=years),
        "retention": functools.partial(retention.measure, load=load),
    }
    suites = [known[name] for name in arguments.names or SUITES]
    results = asyncio.run(run(suites, arguments.rows))
    table = Table(title="Atlas beside its peers, one run")
    for column in ("what", "Atlas", "beside", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column in ("what", "beside") else "right")
    for result in results:
        table.add_row(*result.cells())
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
