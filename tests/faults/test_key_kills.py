"""Processes that share keys are killed and started again: no unit is lost, no refused call is repeated."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atlas.db import Database
from tests.support.servers.http import loopback_server
from tests.support.servers.quota_api import QuotaAPI
from tests.support.sql import execute, fetch

ROOT = Path(__file__).resolve().parents[2]
CHILD = "tests.support.children.keys_child"
KEYS = [f"AIzaSyFakeFakeFakeFakeFakeFakeFakeKills{n}" for n in range(4)]
LIMITS = {"general": 120, "search": 12}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[QuotaAPI, str]]:
    projects = {key: f"project-{n // 2}" for n, key in enumerate(KEYS)}
    members = [{"key": key, "project": project} for key, project in projects.items()]
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", json.dumps(members))
    monkeypatch.setenv("COMPLIANCE_MODE", "false")
    monkeypatch.setenv("KEY_POOL_ARCHEOLOGY_SIZE", "0")
    monkeypatch.setenv("KEY_POOL_TRACKING_SIZE", "0")
    monkeypatch.setenv("YOUTUBE_QUOTA_JSON", json.dumps(LIMITS))
    api = QuotaAPI(projects, LIMITS)
    with loopback_server() as server:
        api.serve(server)
        yield api, server.url


@pytest.fixture
def start(api: tuple[QuotaAPI, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts an agent, which is ready and waits for its input to end."""
    with contextlib.ExitStack() as running:

        def start(method: str = "videos", tasks: int = 3) -> subprocess.Popen[str]:
            process = running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", CHILD, api[1], method, str(tasks)],
                    cwd=ROOT,
                    env=dict(os.environ),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            running.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """Its lines, once it has ended cleanly."""
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err[-3000:]
    assert not [key for key in KEYS if key in out + err]
    return out.splitlines()


async def test_killed_agents_lose_no_unit_and_restarted_ones_send_no_refused_call(
    database: Database, api: tuple[QuotaAPI, str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    fake, _ = api
    doomed, first, second = start(), start(), start()
    begin(doomed)
    assert doomed.stdout is not None
    for _ in range(3):
        assert doomed.stdout.readline() == "answered\n"
    begin(first, second)  # by now it holds units that it has not used
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate(timeout=60)
    # as if a minute had passed: what the killed one had leased comes back
    await execute(
        database,
        "UPDATE api_quota_usage SET leases = (SELECT coalesce(jsonb_object_agg(key, jsonb_set(value, '{e}', "
        "to_jsonb((value ->> 'e')::numeric - 61))), '{}') FROM jsonb_each(leases))",
    )
    lines = [line for process in (first, second) for line in ended(process)]
    assert set(lines) == {"answered"}
    assert sum(fake.accepted.values()) == 240  # the last unit used
    rows = await fetch(database, "SELECT spent, external, refused FROM api_quota_usage")
    assert sum(row["spent"] + row["external"] for row in rows) == 240
    assert all(row["refused"] for row in rows)

    refused = sum(fake.refused.values())
    assert refused <= 2 * 2 * 3  # projects, processes, tasks: what was in flight
    for process in [start(), start()]:
        assert ended(process) == []
    assert sum(fake.refused.values()) == refused


async def test_a_spent_search_bucket_of_unlabelled_agents_leaves_the_other_units(
    database: Database, api: tuple[QuotaAPI, str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    fake, _ = api
    assert len(ended(start("search", 1))) == 24
    refused = sum(fake.refused.values())
    assert refused <= 2
    assert ended(start("search", 1)) == []
    assert sum(fake.refused.values()) == refused
    assert len(ended(start("videos", 2))) == 240
