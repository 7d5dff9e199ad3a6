"""The program as people run it: through a pipe, on a terminal, and interrupted."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.importing.importer import ImportReport, import_files
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault

IMPORT = [sys.executable, "-m", "atlas", "import"]
ID = "jt2OHQh0HoQ"
DAYS = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]


def rows(day: datetime, count: int) -> str:
    """Samples of one day, a second apart."""
    moments = (day + timedelta(seconds=n) for n in range(count))
    return "".join(f"{ID},{moment:%Y-%m-%dT%H:%M:%SZ},{n}\n" for n, moment in enumerate(moments))


async def count(database: Database) -> int:
    async with database.transaction(read_only=True) as session:
        return int(await session.scalar(text("SELECT count(*) FROM video_stats_log")) or 0)


@pytest.mark.usefixtures("database")
def test_a_real_pipe_brings_in_what_another_program_prints(tmp_path: Path) -> None:
    made = subprocess.Popen(
        [sys.executable, "-c", f"print('id,date,views'); print({rows(DAYS[0], 5)!r}, end='')"],
        stdout=subprocess.PIPE,
    )
    done = subprocess.run(
        [*IMPORT, "-"], stdin=made.stdout, capture_output=True, text=True, cwd=tmp_path
    )
    assert made.stdout is not None
    made.stdout.close()
    assert (made.wait(), done.returncode) == (0, 0), done.stderr
    assert "5 new" in done.stdout
    assert not done.stderr


@pytest.mark.usefixtures("database")
def test_an_interrupt_ends_the_wait_for_a_pipe_that_brings_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*IMPORT, "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as waiting:
        assert waiting.stdin is not None
        waiting.stdin.write("id,date,views\n" + rows(DAYS[0], 3))
        waiting.stdin.flush()
        # the pipe is emptied by a program that has come as far as reading it
        until_read(waiting.stdin.fileno())
        waiting.send_signal(signal.SIGINT)
        code = waiting.wait(60)  # while the pipe stays open
        assert waiting.stderr is not None
        told = waiting.stderr.read()
    assert code == 130
    assert "0 samples are in" in told and "error: interrupted" in told


def until_read(pipe: int) -> None:
    """Wait until the other side has taken everything."""
    waiting = array.array("i", [1])
    while waiting[0]:
        time.sleep(0.01)
        fcntl.ioctl(pipe, termios.FIONREAD, waiting)


async def test_an_interrupt_while_loading_says_what_is_in_and_repeating_doubles_nothing(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "export.csv"
    first, second = 80_000, 60_000  # the first of two buckets is of the first day
    path.write_text("id,date,views\n" + rows(DAYS[0], first) + rows(DAYS[1], second))
    # partitions for both days; the second one is kept busy
    await record_samples(database, [Sample("other", day) for day in DAYS])
    async with database.transaction() as session:
        names = await session.scalars(
            text("SELECT tableoid::regclass::text FROM video_stats_log ORDER BY timestamp")
        )
        busy = list(names)[1]
    async with database.transaction() as holder:
        await holder.execute(text(f"LOCK TABLE {busy} IN EXCLUSIVE MODE"))
        importing = await asyncio.create_subprocess_exec(
            *IMPORT, str(path), cwd=tmp_path, stderr=subprocess.PIPE
        )
        found = 2
        while importing.returncode is None and found == 2:
            await asyncio.sleep(0.05)
            found = await count(database)
        importing.send_signal(signal.SIGINT)
        _, told = await importing.communicate()
    lines, written = told.decode(), found - 2
    assert importing.returncode == 130
    assert f"{written:,} samples are in" in lines and "importing the same again" in lines
    report = await import_files(database, [path], vault=LocalVault(tmp_path / "vault"))
    assert (report.new, report.replaced) == (first + second - written, 0)
    assert report.unchanged == written
    assert await count(database) == first + second + 2


async def test_a_vault_that_cannot_be_asked_is_named_and_nothing_counts_twice(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "export.csv"
    vault = LocalVault(tmp_path / "vault")

    async def take(columns: str, *lines: str) -> ImportReport:
        path.write_text("\n".join([f"id,date,{columns}", *(f"{ID},{line}" for line in lines)]))
        return await import_files(database, [path], vault=vault)

    cold = [f"{day:%Y-%m-%d},{day.day},10,3" for day in DAYS]
    await take("views,likes,comments", *cold)
    await Archiver(database, vault).run(timedelta(days=7))
    hot = f"{datetime.now(UTC):%Y-%m-%d},7,8,9"
    await take("views,likes,comments", hot)

    def fails(*_: object, **__: object) -> None:
        raise VaultUnavailable("the network is down")

    with monkeypatch.context() as patch:
        for reads in ("list", "open", "get_bytes", "stat"):
            if hasattr(vault.store, reads):
                patch.setattr(type(vault.store), reads, fails)
        with pytest.raises(VaultUnavailable):
            # likes and comments of these samples may lie in the vault: they must not become unknown
            await take("views", f"{DAYS[0]:%Y-%m-%d},5")
        report = await take("views,likes,comments", *cold, hot)
    assert (report.new, report.unchanged) == (2, 1)
    assert any("vault could not be asked" in note for note in report.notes)
    table = await StatsReader(database, vault).history(ID)
    assert table["views"].to_pylist() == [1, 2, 7]


@pytest.mark.usefixtures("database")
def test_a_terminal_shows_bytes_speed_and_the_time_left(tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_text("id,date,views\n" + rows(DAYS[0], 30_000))
    master, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "150"}
    with subprocess.Popen(
        [*IMPORT, "export.csv"], stdout=terminal, stderr=terminal, cwd=tmp_path, env=environment
    ) as importing:
        os.close(terminal)
        shown = b""
        while True:
            try:
                more = os.read(master, 65_536)
            except OSError:  # the last one has closed the terminal
                break
            shown += more
        assert importing.wait() == 0
    os.close(master)
    plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"importing: (reading|checking|loading)", plain)
    assert re.search(r"[\d.]+/[\d.]+ [kM]B", plain)
    assert re.search(r"\d:\d\d:\d\d", plain)
    assert "30,000 new" in plain
