"""``atlas work`` as an operator gives it."""

from __future__ import annotations

import json

from atlas.db import Database
from tests.support.cli import Run
from tests.support.sql import execute, fetch


async def test_what_was_put_aside_is_seen_and_brought_back(database: Database, atlas: Run) -> None:
    await execute(
        database,
        "INSERT INTO watchlist (video_id, leased_until, attempts, error) "
        "VALUES ('v1', 'infinity', 10, 'no such video'), ('v2', NULL, 0, NULL)",
    )
    await execute(
        database,
        "INSERT INTO search_queue (query_term, leased_until, attempts) "
        "VALUES ('term', 'infinity', 10)",
    )
    await execute(database, "INSERT INTO videos (id, title, status) VALUES ('v3', 't', 'FAILED')")
    told = json.loads(atlas("work", "ls", "--json").stdout)
    assert {one["kind"]: one["quarantined"] for one in told["counts"]} == {
        "hunt": 1,
        "track": 1,
        "retrack": 0,
        "transcript": 0,
        "visuals": 0,
    }
    assert {"kind": "track", "key": "v1", "attempts": 10, "error": "no such video"} in told[
        "quarantined"
    ]
    assert "no such video" in atlas("work", "ls").stdout
    assert "in quarantine: 2" in atlas("status").stdout

    (term,) = [one["key"] for one in told["quarantined"] if one["kind"] == "hunt"]
    for arguments in (["track"], ["hunt", term], ["transcript", "v3"]):
        done = atlas("work", "requeue", *arguments, "--json")
        assert json.loads(done.stdout) == {"requeued": 1}, done.stderr
    assert json.loads(atlas("work", "requeue", "track", "--json").stdout) == {"requeued": 0}
    assert "in quarantine" not in atlas("status").stdout
    assert await fetch(
        database, "SELECT leased_until, attempts, error FROM watchlist WHERE video_id = 'v1'"
    ) == [{"leased_until": None, "attempts": 0, "error": None}]
    refused = atlas("work", "requeue", "hunt", "term")
    assert refused.returncode == 2 and "numbers" in refused.stderr
