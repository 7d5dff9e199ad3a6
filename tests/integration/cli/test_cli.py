"""The program as a person and as another program use it: output, exit codes, no traceback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

from atlas.archive.fencing.lock import archiver_lock
from atlas.db import Database
from atlas.ingest import record_samples
from tests.support.cli import Run
from tests.support.samples import samples


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error:")
    assert "hint:" in done.stderr
    return done.stderr


async def test_the_main_job_by_commands(database: Database, atlas: Run, tmp_path: Path) -> None:
    old = datetime.now(UTC) - timedelta(days=20)
    days = [*range(12), *range(15, 19)]  # well on either side of the retention
    lines = [f"jt2OHQh0HoQ,{old + timedelta(days=n):%Y-%m-%d},{n}" for n in days]
    (tmp_path / "export.csv").write_text(
        "\n".join(["id,date,views", *lines, "#NAME?,2026-01-01,5"])
    )
    imported = json.loads(atlas("import", "export.csv", "--json").stdout)
    assert (imported["rows"], imported["good"], imported["bad"], imported["samples"]) == (
        17,
        16,
        1,
        16,
    )
    assert (
        (tmp_path / "export.csv.rejected.csv")
        .read_text()
        .splitlines()[1]
        .startswith("18,id,#NAME?")
    )
    dry = json.loads(atlas("archive", "--dry-run", "--json").stdout)
    archived = json.loads(atlas("archive", "--json").stdout)
    assert dry["rows"] == archived["rows"] == 12
    status = json.loads(atlas("status", "--json").stdout)
    assert status["tiers"]["hot"]["rows"] == 4
    assert status["tiers"]["cold"]["rows"] == 12
    assert status["watchlist"][0]["entries"] == 1
    history = json.loads(atlas("history", "jt2OHQh0HoQ", "--json").stdout)
    assert [one["views"] for one in history["samples"]] == days
    assert json.loads(atlas("janitor", "--json").stdout) == {
        "deleted": 0,
        "reason": "none_eligible",
    }
    for command in (
        ["status"],
        ["history", "jt2OHQh0HoQ"],
        ["archive"],
        ["vault", "ls"],
        ["events"],
    ):
        shown = atlas(*command)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout
        assert shown.stderr == ""
    assert "▁" in atlas("history", "jt2OHQh0HoQ").stdout


async def test_history_of_a_video_nobody_knows_fails_with_a_hint(
    database: Database, atlas: Run
) -> None:
    assert "nobody" in error_of(atlas("history", "nobody"), 1)
    error_of(atlas("history", "no/body"), 2)


async def test_archive_exits_3_while_another_archiver_works(database: Database, atlas: Run) -> None:
    await record_samples(database, samples())
    async with archiver_lock(database):
        error_of(atlas("archive"), 3)
    assert atlas("archive", "--wait").returncode == 0


def test_wrong_settings_exit_2_and_name_the_variable(atlas: Run) -> None:
    assert "STATS_PARTITION_HOURS" in error_of(atlas("status", STATS_PARTITION_HOURS="5"), 2)
    assert "DATABASE_URL" in error_of(atlas("status", ENV="prod", DATABASE_URL=None), 2)


def test_help_is_given_whatever_the_settings(atlas: Run) -> None:
    for command in ([], ["archive"], ["vault", "ls"]):
        done = atlas(*command, "--help", STATS_PARTITION_HOURS="5")
        assert (done.returncode, done.stderr) == (0, "")
        assert "Usage" in done.stdout


def test_debug_shows_where_an_error_comes_from(atlas: Run) -> None:
    for done in (
        atlas("--debug", "status", STATS_PARTITION_HOURS="5"),
        atlas("status", STATS_PARTITION_HOURS="5", ATLAS_DEBUG="1"),
    ):
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "ConfigurationError" in done.stderr


async def test_an_interrupt_exits_130_quietly_and_leaves_nothing_locked(
    database: Database, atlas: Run, tmp_path: Path
) -> None:
    await record_samples(database, samples())
    async with archiver_lock(database):
        waiting = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from atlas.cli.main import main; main()", "archive", "--wait"),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stderr=subprocess.PIPE,
        )
        await queued(database, waiting)
        waiting.send_signal(signal.SIGINT)
        _, told = await waiting.communicate()
    assert waiting.returncode == 130
    assert told.decode().splitlines()[0] == "error: interrupted"
    assert "is kept" in told.decode()
    assert json.loads(atlas("archive", "--json").stdout)["rows"] == len(samples())


async def queued(database: Database, program: asyncio.subprocess.Process) -> None:
    """Wait until ``program`` waits for an advisory lock."""
    waits = text(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database "
        "WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"
    )
    while program.returncode is None:
        async with database.transaction(read_only=True) as session:
            if await session.scalar(waits):
                return
        await asyncio.sleep(0.05)


def test_wrong_usage_exits_2(atlas: Run) -> None:
    assert atlas("archive", "--max-rows", "none").returncode == 2
    assert atlas("import", "nowhere.csv").returncode == 2
    assert atlas("frobnicate").returncode == 2


def test_an_unreachable_database_is_told_without_the_password(atlas: Run) -> None:
    url = "postgresql://someone:s3cr3t@127.0.0.1:9/atlas"
    for command in (["status"], ["archive"], ["history", "v"]):
        assert "s3cr3t" not in error_of(atlas(*command, DATABASE_URL=url), 1)


def test_a_database_without_migrations_says_what_to_run(
    empty_database_url: str, atlas: Run
) -> None:
    for command in (["status"], ["archive"], ["history", "v"], ["db", "check"]):
        assert "atlas db upgrade" in error_of(atlas(*command, DATABASE_URL=empty_database_url), 2)
    assert atlas("db", "upgrade", DATABASE_URL=empty_database_url).returncode == 0
    assert atlas("db", "check", DATABASE_URL=empty_database_url).returncode == 0


async def test_doctor_finds_everything_in_order_or_says_what_mends_it(
    database: Database, atlas: Run
) -> None:
    fine = atlas("doctor", "--json", YOUTUBE_API_KEY_POOL_JSON='["a-key-of-some-length"]')
    assert fine.returncode == 0, fine.stdout
    assert {one["check"] for one in json.loads(fine.stdout)} == {
        "settings",
        "database",
        "pooler",
        "sessions",
        "migrations",
        "access",
        "clock",
        "vault",
        "ledger and vault",
        "appended metrics",
        "keys",
        "webhook",
        "Discord",
    }
    skipped = {one["check"] for one in json.loads(fine.stdout) if one["skipped"]}
    assert skipped == {"webhook", "Discord"}
    broken = atlas("doctor", "--json", DATABASE_URL="postgresql://x@127.0.0.1:9/x")
    assert broken.returncode == 1
    wrong = {one["check"]: one for one in json.loads(broken.stdout) if not one["ok"]}
    assert set(wrong) == {"database"}, "one row a cause"
    assert wrong["database"]["mend"]
    skipped = {one["check"]: one for one in json.loads(broken.stdout) if one["skipped"]}
    assert {"migrations", "clock", "ledger and vault", "keys"} <= set(skipped)
    assert "database" in skipped["clock"]["found"]
    unsettled = atlas("doctor", "--json", STATS_PARTITION_HOURS="5")
    assert unsettled.returncode == 1
    assert [one["check"] for one in json.loads(unsettled.stdout)] == ["settings"]


async def test_a_vault_that_cannot_be_written_is_told_and_nothing_is_lost(
    database: Database, atlas: Run, tmp_path: Path
) -> None:
    await record_samples(database, samples())
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "vault").write_text("a file where the folder should be")
    assert "is not a folder" in error_of(atlas("archive"), 1)
    (tmp_path / "home" / "vault").unlink()
    assert json.loads(atlas("archive", "--json").stdout)["rows"] == len(samples())


async def test_the_demo_runs_twice_and_adds_up(database: Database, atlas: Run) -> None:
    for _ in range(2):
        done = atlas("demo", "--videos", "40", "--days", "9", "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert summary["samples"] == summary["rows_hot"] + summary["rows_cold"] > 1_000
        assert summary["rows_cold"] > 0
        assert summary["videos_cleaned"] > 0
        assert len(summary["history"]) > 20
    error_of(atlas("demo", ENV="prod"), 2)
