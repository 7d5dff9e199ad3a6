"""``atlas keys`` as a program: what it shows, what it tries, how long it waits, and what it never prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.config import ApiKey
from atlas.db import Database
from atlas.keys.accounting.fingerprints import identify
from atlas.repositories.keys import KeyLedger, Rest
from tests.support.cli import Run
from tests.support.servers.http import loopback_server
from tests.support.servers.quota_api import QuotaAPI
from tests.support.sql import fetch

ROOT = Path(__file__).resolve().parents[3]
KEYS = [f"AIzaSyFakeFakeFakeFakeFakeFakeFakeShow{n}" for n in range(3)]
PROJECTS = {key: f"project-{n}" for n, key in enumerate(KEYS)}
SOON = datetime.now(UTC) + timedelta(hours=2)


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [{"key": key, "project": project} for key, project in PROJECTS.items()]
    monkeypatch.setenv("YOUTUBE_API_KEY_POOL_JSON", json.dumps(members))
    monkeypatch.setenv("COMPLIANCE_MODE", "false")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[QuotaAPI]:
    api = QuotaAPI(PROJECTS, {"general": 100, "search": 10})
    with loopback_server() as server:
        api.serve(server)
        monkeypatch.setenv("YOUTUBE_API_URL", f"{server.url}/youtube/v3")
        yield api


async def rest(database: Database, *names: tuple[str, str, str], until: datetime = SOON) -> None:
    async with database.transaction() as session:
        await KeyLedger(session).rest([Rest(a, b, until, reason) for a, b, reason in names])


def identity(number: int) -> Any:
    return identify(ApiKey(KEYS[number], PROJECTS[KEYS[number]]))


def shown(atlas: Run, *arguments: str, code: int = 0) -> Any:
    done = atlas("keys", *arguments)
    assert done.returncode == code, done.stderr
    assert not [key for key in KEYS if key in done.stdout + done.stderr]
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


async def test_the_list_shows_state_units_and_when_they_come_back(
    atlas: Run, database: Database
) -> None:
    await rest(
        database,
        ("project:project-0", "search", "spent"),
        (identity(1).key_account, "*", "disabled"),
    )
    async with database.transaction() as session:
        ledger = KeyLedger(session)
        day = (await ledger.snapshot()).day
        await ledger.settle(
            "project-0",
            "search",
            day,
            holder="h",
            total=97,
            settled=0,
            in_flight=0,
            need=0,
            limit=100,
        )
    text = shown(atlas)
    assert "search 97/100" in text and "general 0/10,000" in text
    assert f"{SOON:%Y-%m-%d %H:%M:%S}" in text
    found = shown(atlas, "list", "--json")
    assert [found[pool][0]["state"] for pool in ("hunting", "tracking", "archeology")] == [
        "live",
        "disabled",
        "live",
    ]
    assert found["hunting"][0]["key"] == f"…{KEYS[0][-4:]}"
    assert shown(atlas, "--json").keys() == found.keys()


@pytest.mark.parametrize("value", ["a,b,c", '["a", 7]', '{"key": "a"}', "{", "[]"])
def test_wrong_settings_are_errors_not_an_empty_table(atlas: Run, value: str) -> None:
    done = atlas("keys", YOUTUBE_API_KEY_POOL_JSON=value)
    assert done.returncode == 2
    assert "YOUTUBE_API_KEY_POOL_JSON" in done.stderr


async def test_asking_the_api_brings_back_what_works_and_puts_aside_what_does_not(
    atlas: Run, database: Database, api: QuotaAPI
) -> None:
    await rest(
        database,
        (identity(0).key_account, "*", "disabled"),
        ("project:project-1", "general", "spent"),
    )
    api.restricted = {KEYS[2]}
    found = shown(atlas, "test", "--json", code=1)
    assert [one["answer"] for one in found] == ["ok", "ok", "disabled"]
    assert sum(api.accepted.values()) == 2
    listed = [one for ring in shown(atlas, "list", "--json").values() for one in ring]
    assert [one["state"] for one in listed] == ["live", "live", "disabled"]
    # what was asked is accounted, and the day on which a key comes back is shown
    assert [one["buckets"][0]["spent"] for one in listed] == [1, 1, 0]
    assert [one["usable_at"] is None for one in listed] == [True, True, False]
    assert listed[2]["usable_at"][:10] in shown(atlas)


async def test_a_project_that_answers_again_is_granted_units(
    atlas: Run, database: Database, api: QuotaAPI
) -> None:
    async with database.autocommit() as session:
        ledger = KeyLedger(session)
        day = (await ledger.snapshot()).day
        await ledger.refused("project-0", "general", day, 100)
    await rest(database, ("project:project-0", "general", "spent"))
    shown(atlas, "test")
    rows = await fetch(database, "SELECT project FROM api_quota_usage WHERE refused")
    assert rows == []
    api.limits["general"] = 1
    assert [one["answer"] for one in shown(atlas, "test", "--json")] == ["spent"] * 3
    rows = await fetch(database, "SELECT spent + external AS units, refused FROM api_quota_usage")
    assert [(row["units"], row["refused"]) for row in rows] == [(10_000, True)] * 3


async def test_waiting_ends_when_a_key_may_be_used_and_fails_when_the_time_is_over(
    atlas: Run, database: Database
) -> None:
    assert "waiting" not in shown(atlas, "wait", "--pool", "hunting")
    await rest(database, ("project:project-0", "general", "spent"))
    assert "waiting" not in shown(atlas, "wait", "--pool", "hunting", "--bucket", "search")
    assert "spent" in shown(atlas, "wait", "--pool", "hunting", "--timeout", "0.2", code=1)
    assert "waiting" not in shown(atlas, "wait", "--pool", "Tracking")
    soon = datetime.now(UTC) + timedelta(seconds=5)
    await rest(database, ("project:project-1", "general", "spent"), until=soon)
    shown(atlas, "wait", "--pool", "tracking", "--timeout", "120")
    assert datetime.now(UTC) >= soon
    await rest(database, (identity(2).key_account, "*", "disabled"))
    assert "refused for good" in shown(atlas, "wait", "--pool", "archeology", code=2)
    shown(atlas, "wait", "--pool", "fishing", code=2)


async def test_the_entry_point_of_the_docs_starts_the_collector_only_when_there_is_quota(
    database: Database, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "hydra-protocol.md").read_text()
    (line,) = re.findall(r"entrypoint: (\[.*\])", page)
    entrypoint = json.loads(line)
    tools = tmp_path / "bin"
    tools.mkdir()
    script = f'#!/bin/sh\nexec {sys.executable} -m atlas "$@"\n'
    (tools / "atlas").write_text(script)
    (tools / "atlas").chmod(0o755)

    def start() -> subprocess.CompletedProcess[str]:
        import os

        return subprocess.run(
            [*entrypoint, "echo", "collector", "started"],
            env={**os.environ, "PATH": f"{tools}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert start().stdout == "collector started\n"
    await rest(database, (identity(0).key_account, "*", "disabled"))
    assert start().returncode == 2
    assert start().stdout == ""


def test_the_set_ups_of_the_docs_are_well_formed(tmp_path: Path) -> None:
    import yaml

    page = (ROOT / "docs" / "hydra-protocol.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        assert "atlas" in str(yaml.safe_load(block))
    (unit,) = re.findall(r"```ini\n(.*?)```", page, re.DOTALL)
    assert "atlas keys wait --pool hunting" in unit
    if (systemd := shutil.which("systemd-analyze")) is None:
        pytest.skip("no systemd-analyze on this machine")
    (tmp_path / "hunter.service").write_text(unit)
    done = subprocess.run(
        [systemd, "verify", "--man=no", str(tmp_path / "hunter.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
