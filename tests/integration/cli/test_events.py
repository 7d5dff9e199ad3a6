"""``atlas events``: endpoints, delivery by a worker, dead letters and replay, as an operator has them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from atlas.db import Database
from atlas.events import bus_of
from tests.support.cli import Run
from tests.support.events import SECRET, deliveries, of_type, verified
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server
from tests.support.sql import execute


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


async def test_dead_letters_and_events_are_replayed_under_the_same_id(
    database: Database, atlas: Run, server: LoopbackServer
) -> None:
    added = atlas(
        *("events", "endpoints", "add", "hook", f"{server.url}/hook"),
        *("--secret", "env:HOOK_SECRET", "--type", "a.*", "--where", '{"tier": "HOURLY"}'),
        HOOK_SECRET=SECRET,
    )
    assert added.returncode == 0, added.stderr
    await bus_of(database).emit_many(
        [("a.one", "1", {"tier": "HOURLY"}), ("a.two", "2", {"tier": "DAILY"}), ("a.three", "3")]
    )
    server.script(Reply(400))
    once = ("events", "deliver", "--once", "--json")
    assert json.loads(atlas(*once, HOOK_SECRET=SECRET).stdout) == {"delivered": 0}
    await execute(database, "UPDATE event_deliveries SET due_at = NULL, attempts = 10")
    shown = json.loads(atlas("events", "list", "--type", "a.one", "--json").stdout)["events"]
    assert [one["state"] for one in shown[0]["deliveries"]] == ["dead"]

    server.script(Reply())
    dead = atlas("events", "replay", "--endpoint", "hook", "--dead", "--json")
    assert json.loads(dead.stdout) == {"replayed": 1}
    assert json.loads(atlas(*once, HOOK_SECRET=SECRET).stdout) == {"delivered": 1}
    for again in (["events", "replay", shown[0]["id"]], ["events", "replay", "--since", "1d"]):
        assert json.loads(atlas(*again, "--json").stdout) == {"replayed": 1}
        assert json.loads(atlas(*again, "--json").stdout) == {"replayed": 0}  # it waits already
        assert json.loads(atlas(*once, HOOK_SECRET=SECRET).stdout) == {"delivered": 1}
    sent = of_type(server)
    of_one = [one.headers["webhook-id"] for one in sent if verified(one)["type"] == "a.one"]
    assert of_one == [shown[0]["id"]] * 4
    assert all(one["delivered_at"] for one in await deliveries(database))
    # what the endpoint does not take goes nowhere, unless both are named
    assert {verified(one)["type"] for one in server.requests} == {"a.one"}
    other = json.loads(atlas("events", "list", "--type", "a.three", "--json").stdout)["events"]
    named = atlas("events", "replay", other[0]["id"], "--endpoint", "hook", "--json")
    assert json.loads(named.stdout) == {"replayed": 1}
    assert atlas("events", "replay").returncode == 2


async def test_a_replay_by_time_goes_by_rules_too_and_to_who_was_not_there_yet(
    database: Database, atlas: Run
) -> None:
    bus = bus_of(database)
    await bus.emit_many([("a.one",), ("a.two",), ("b.one",)])
    await bus.endpoints.add("hook", "https://hook.example/", patterns=["a.two"])
    await bus.endpoints.add("rules", "https://rules.example/", patterns=[])
    await bus.endpoints.add_route("b.*", "rules")
    again = atlas("events", "replay", "--since", "1d", "--json")
    assert json.loads(again.stdout) == {"replayed": 2}
    found = await deliveries(database, "%")
    assert [one["event_type"] for one in found] == ["a.two", "b.one"]


async def test_a_worker_that_is_asked_to_stop_finishes_what_is_in_flight_and_begins_nothing(
    database: Database, server: LoopbackServer
) -> None:
    arrived, release = threading.Event(), threading.Event()

    def respond(request: Request) -> Reply:
        arrived.set()
        release.wait()
        return Reply()

    server.respond = respond
    bus = bus_of(database)
    await bus.endpoints.add("hook", f"{server.url}/hook", patterns=["a*"], max_in_flight=1)
    await bus.emit_many([("a",)] * 3)
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atlas", "events", "deliver", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await asyncio.to_thread(arrived.wait)
    worker.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)  # it may notice: what is in flight is not let go of
    assert worker.returncode is None
    release.set()
    out, err = await worker.communicate()
    assert (worker.returncode, json.loads(out)) == (0, {"delivered": 1}), err
    assert len(server.requests) == 1
    found = await deliveries(database)
    assert sorted((one["delivered_at"] is not None, one["attempts"]) for one in found) == [
        (False, 0),
        (False, 0),
        (True, 1),
    ]
    assert not any(one["lease"] for one in found)
