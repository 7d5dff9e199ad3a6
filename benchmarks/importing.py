"""The time ``import atlas`` takes beyond a bare interpreter's start."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from atlas.db import Database
from benchmarks.support import Result, stopwatch


def _start(code: str) -> float:
    times = []
    for _ in range(7):
        with stopwatch() as watch:
            subprocess.run([sys.executable, "-c", code], check=True)
        times.append(watch.seconds)
    return statistics.median(times)


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    more = _start("import atlas") - _start("pass")
    return [Result("import atlas, beyond bare", more, "0.2 s", 0.2, "s", 1, most=True)]
