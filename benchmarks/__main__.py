"""Runs every measurement (or those named) on a database of its own and prints one table.

Usage: python -m benchmarks [archive|ingest|claims|import|read ...] [--rows N] [--days N]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import archiving, claiming, importing, ingesting, reading
from benchmarks.support import Result, scratch_database

SUITES = {
    "archive": archiving.measure,
    "ingest": ingesting.measure,
    "claims": claiming.measure,
    "import": importing.measure,
    "read": reading.measure,
}


async def run(names: list[str], rows: int, days: int) -> list[Result]:
    results: list[Result] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="atlas-bench-") as folder:
            async with scratch_database() as database:
                options = {"days": days} if name == "read" else {}
                results += await SUITES[name](database, Path(folder), rows, **options)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the archive run")
    parser.add_argument("--days", type=int, default=60, help="daily files of the read run")
    arguments = parser.parse_args()
    results = asyncio.run(run(arguments.names or list(SUITES), arguments.rows, arguments.days))
    table = Table(title="Atlas beside its peers, one run")
    for column in ("what", "Atlas", "beside", "ratio", "goal", ""):
        table.add_column(column, justify="left" if column in ("what", "beside") else "right")
    for result in results:
        table.add_row(*result.cells())
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
