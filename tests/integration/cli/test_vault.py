"""The vault's commands, one after the other as an operator would give them."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from atlas.db import Database
from atlas.ingest import record_samples
from tests.support.cli import Run
from tests.support.samples import OLD, samples
from tests.support.servers.postgres import Server, name_of


def answer(atlas: Run, *arguments: str, code: int = 0, **variables: str) -> Any:
    done = atlas(*arguments, "--json", **variables)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


async def test_what_an_operator_does_with_a_vault(
    database: Database, atlas: Run, postgres_server: Server, migrated_template: str
) -> None:
    rows = samples(times=24)
    await record_samples(database, rows)
    assert answer(atlas, "archive")["rows"] == len(rows)
    assert answer(atlas, "vault", "compact", "--dry-run")["files_before"] == 4
    compacted = answer(atlas, "vault", "compact")
    assert (compacted["files_before"], compacted["files_after"]) == (4, 1)
    assert atlas("vault", "compact").stdout == "nothing to compact\n"
    assert answer(atlas, "vault", "gc")["keys"] == []
    assert answer(atlas, "vault", "gc", "--older-than", "0")["replaced"] == 4

    since, until = OLD + timedelta(hours=6), OLD + timedelta(hours=12)
    span = ("--since", f"{since:%Y-%m-%d %H:%M:%S}", "--until", f"{until:%Y-%m-%dT%H:%M:%S}")
    restored = answer(atlas, "vault", "restore", *span)
    assert (restored["rows"], restored["restored"]) == (120, 120)
    assert answer(atlas, "archive")["rows"] == 0
    assert answer(atlas, "vault", "release")["rows"] == 120

    refused = atlas("vault", "forget", "video-0003")  # nobody says yes
    assert refused.returncode == 1
    assert "erased everywhere" in refused.stderr
    receipt = answer(atlas, "vault", "forget", "video-0003", "--yes")
    assert receipt["cold_rows"] == 24
    assert receipt["remains"]
    assert "no samples of video-0003" in atlas("history", "video-0003").stderr
    assert len(answer(atlas, "history", "video-0004")["samples"]) == 24
    assert answer(atlas, "vault", "fsck", "--deep") == []

    lost = postgres_server.create(migrated_template)
    try:
        rebuilt = answer(atlas, "vault", "rebuild", DATABASE_URL=lost)
        assert (rebuilt["rows"], rebuilt["skipped"]) == (len(rows) - 24, [])
        found = answer(atlas, "history", "video-0004", DATABASE_URL=lost)
        assert len(found["samples"]) == 24
    finally:
        postgres_server.drop(lost)


async def test_people_are_told_the_same_in_words(
    database: Database, atlas: Run, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=12))
    atlas("archive")
    assert "2 files became 1" in atlas("vault", "compact").stdout
    span = ("--since", f"{OLD:%Y-%m-%d}", "--until", f"{OLD + timedelta(days=1):%Y-%m-%d}")
    assert (
        "240 samples are hot, 240 of them were missing" in atlas("vault", "restore", *span).stdout
    )
    assert f"restored and pinned: {OLD:%Y-%m-%d}" in atlas("status").stdout
    assert "240 rows removed" in atlas("vault", "release").stdout
    told = atlas("vault", "forget", "--yes", "video-0001").stdout
    assert "Rewritten without them" in told
    assert "Outside of Atlas's reach" in told
    wrong = atlas("vault", "compact", "--target", "many")
    assert wrong.returncode == 2
    assert "128MB" in wrong.stderr
    (path,) = (Path(os.environ["ATLAS_HOME"]) / "vault" / "video_stats").rglob("*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    found = atlas("vault", "fsck", "--deep")
    assert found.returncode == 1
    assert "checksum" in found.stdout
    failed = atlas("vault", "forget", "--yes", "video-0002")
    assert failed.returncode == 1
    assert "fsck --deep" in failed.stderr
    async with database.transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM archive_pins")) == 0


async def test_adopting_is_shown_before_it_is_done(
    database: Database, atlas: Run, postgres_server: Server, database_url: str, tmp_path: Path
) -> None:
    rows = samples(times=24)
    await record_samples(database, rows)
    await database.close()
    backup = postgres_server.create(name_of(database_url))
    answer(atlas, "archive")
    try:
        refused = atlas("archive", DATABASE_URL=backup)
        assert refused.returncode != 0
        assert "atlas vault adopt" in refused.stderr
        foreseen = answer(atlas, "vault", "adopt", "--dry-run", DATABASE_URL=backup)
        assert (foreseen["dry_run"], foreseen["files"], foreseen["rows"]) == (True, 4, len(rows))
        assert foreseen["other"]["host"]
        shown = atlas("vault", "adopt", DATABASE_URL=backup)  # nobody says yes
        assert shown.returncode == 1
        assert "What adopting will do" in shown.stdout
        assert "rows of slices that only exist there" in shown.stdout
        assert "refused from now on" in shown.stderr
        adopted = answer(atlas, "vault", "adopt", "--yes", DATABASE_URL=backup)
        assert (adopted["files"], adopted["stale_rows"]) == (4, len(rows))
        assert answer(atlas, "vault", "fsck", DATABASE_URL=backup) == []
        moved = answer(atlas, "vault", "move", "--to", "elsewhere", "--yes", DATABASE_URL=backup)
        assert moved["target"].endswith("elsewhere")
        told = atlas("archive", DATABASE_URL=backup)
        assert "configured vault" in told.stderr
        assert answer(atlas, "archive", DATABASE_URL=backup, VAULT_PREFIX="elsewhere")["rows"] == 0
    finally:
        postgres_server.drop(backup)
