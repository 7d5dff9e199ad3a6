"""Peak memory of the program ``atlas import``, whatever is poured into it, and of ``atlas export``.

Each runs in a process of its own, fed through a pipe; the system reports its peak resident memory. PostgreSQL
is not counted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atlas.db import Database
from benchmarks.support import Result, stopwatch

_MOST = 300
#: Starts a program and says what it took. A child's peak begins with that of its parent, which is small here.
_WATCHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""
_HEADER = b"video_id,title,timestamp,views,likes,comment_count\n"
_ROW = b"jt2OHQh0HoQ,The only row,2026-01-15T00:00:00Z,1,2,3\n"


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """Tables of 1 and 3 million rows, floods of 3 GB in a line and of 1 GB of newlines, and the way out."""
    url = await database.libpq_url()
    results = []
    fed: dict[str, Iterator[bytes]] = {
        f"import, {rows // 3:,} rows": _table(rows // 3, 10, b","),
        f"import, {rows:,} rows, quoted": _table(rows, 20, b'","'),
        "import, a line of 3 GB": _flood(b"x", 3 << 30),
        "import, 1 GB of newlines": _flood(b"\n", 1 << 30),
    }
    for what, blocks in fed.items():
        results += await asyncio.to_thread(_run, what, ["import", "-"], url, folder, blocks)
    for form in ("parquet", "csv", "jsonl"):
        command = ["export", str(folder / f"all.{form}")]
        results += await asyncio.to_thread(_run, f"export, {form}", command, url, folder, None)
    return results


def _run(
    what: str, arguments: list[str], url: str, folder: Path, blocks: Iterator[bytes] | None
) -> list[Result]:
    environment = os.environ | {
        "DATABASE_URL": url,
        "ENV": "dev",
        "ATLAS_HOME": str(folder / "home"),
    }
    with stopwatch() as watch:
        child = subprocess.Popen(
            [sys.executable, "-c", _WATCHED, sys.executable, "-m", "atlas", *arguments],
            stdin=subprocess.PIPE if blocks else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
        )
        if child.stdin is not None:
            with child.stdin as pipe:
                for block in blocks or ():
                    pipe.write(block)
            child.stdin = None
        _, told = child.communicate()
    assert child.returncode == 0, (what, told)
    kilobytes, seconds = told.split()[-2:]
    peak = int(kilobytes) / 1024
    print(
        f"{what}: {peak:.0f} MB, {watch.seconds:.0f} s, {float(seconds):.1f} s of CPU",
        flush=True,
    )
    return [Result(what, peak, "most", _MOST, "MB", 1, most=True)]


def _table(rows: int, days_ago: int, join: bytes) -> Iterator[bytes]:
    """Samples of 20,000 videos over a day, in order of time; ``join`` is a comma, or one between quotes."""
    yield _HEADER
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start -= timedelta(days=days_ago)
    quote = join[:1] if len(join) > 1 else b""
    for first in range(0, rows, 20_000):
        at = first // 20_000
        moment = (start + timedelta(minutes=5 * at)).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
        yield b"".join(
            quote
            + join.join(
                (
                    b"vid%08d" % n,
                    b"The title of video %d" % n,
                    moment,
                    b"%d" % (first + n),
                    b"7",
                    b"3",
                )
            )
            + quote
            + b"\n"
            for n in range(min(20_000, rows - first))
        )


def _flood(filling: bytes, size: int) -> Iterator[bytes]:
    """A good row, ``size`` bytes of one filling, and the row once more."""
    yield _HEADER + _ROW
    block = filling * (1 << 20)
    for _ in range(size >> 20):
        yield block
    yield b"\n" + _ROW
