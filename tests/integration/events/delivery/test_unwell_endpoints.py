"""Endpoints that refuse, fail or are gone: paused, probed, disabled, and nothing is lost."""

from __future__ import annotations

import asyncio

import pytest

from atlas.db import Database
from atlas.events import EventBus
from atlas.events.delivery import deliverer, states
from atlas.events.delivery.deliverer import IN_A_ROW
from atlas.repositories.events import endpoints
from tests.support.events import (
    SECRET,
    deliveries,
    delivery,
    end_pause,
    endpoint,
    of_type,
    sent_to,
    verified,
)
from tests.support.servers.http import LoopbackServer, Reply, Request
from tests.support.sql import execute, scalar


@pytest.fixture(autouse=True)
def scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait a thousand times as long: the tests' own time is nothing beside it."""
    monkeypatch.setattr(deliverer, "SCHEDULE", tuple(1_000 * wait for wait in deliverer.SCHEDULE))
    for module in (endpoints, states):
        monkeypatch.setattr(module, "FIRST_PAUSE", 5_000)
    monkeypatch.setattr(endpoints, "LONGEST_PAUSE", 300_000)


@pytest.mark.parametrize(
    "trouble",
    [Reply(500), Reply(429), Reply(cut=True), Reply(503, b"", {"Retry-After": "nonsense"})],
    ids=["500", "429", "cut", "bad Retry-After"],
)
async def test_an_unwell_endpoint_is_paused_and_its_probe_resumes_it_under_the_same_id(
    bus: EventBus, database: Database, server: LoopbackServer, trouble: Reply
) -> None:
    server.script(trouble, Reply(204))
    await bus.emit("a")
    await bus.drain()
    paused = await endpoint(bus)
    assert (paused.state, paused.pause_seconds) == ("paused", 5_000)
    failed = await delivery(database)
    assert failed["last_error"]
    assert failed["due_at"] is not None
    assert await bus.deliver_pending() == 0  # the pause is not over
    assert len(server.requests) == 1
    await end_pause(database)
    assert await bus.deliver_pending() >= 1
    first, second = of_type(server)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert verified(first) == verified(second)
    assert (await delivery(database))["delivered_at"] is not None
    assert (await endpoint(bus)).state == "active"


@pytest.mark.parametrize(
    "trouble",
    [Reply(400), Reply(404), Reply(307, b"", {"Location": "/elsewhere"})],
    ids=["400", "404", "redirect"],
)
async def test_an_event_that_is_refused_is_tried_by_the_schedule_and_pauses_nobody(
    bus: EventBus, database: Database, server: LoopbackServer, trouble: Reply
) -> None:
    server.script(trouble, Reply(204))
    await bus.emit("a")
    await bus.drain()
    failed = await delivery(database)
    assert (failed["attempts"], failed["delivered_at"]) == (1, None)
    assert 4_000 < failed["due_in"] <= 5_000
    assert (await endpoint(bus)).state == "active"
    await bus.emit("a.other")
    await bus.drain()
    assert len(server.requests) == 2


async def test_five_refusals_in_a_row_pause_and_the_rest_is_given_back_uncounted(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(404))
    await quiet.endpoints.add(
        "hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"], max_in_flight=1
    )
    await quiet.emit_many([("a",)] * 30)
    await quiet.deliver_pending()
    assert len(server.requests) == IN_A_ROW
    assert (await endpoint(quiet, "hook")).state == "paused"
    assert sorted(one["attempts"] for one in await deliveries(database)) == [0] * 25 + [1] * 5


async def test_retry_after_is_honoured(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(429, b"", {"Retry-After": "1000"}))
    await bus.emit("a")
    await bus.drain()
    query = (
        "SELECT extract(epoch FROM paused_until - clock_timestamp())::float8 FROM event_endpoints"
    )
    assert 900 < await scalar(database, query) <= 1000


async def test_no_pause_is_longer_than_who_is_back_may_wait(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(503))
    await bus.emit("a")
    await bus.drain()
    longest = (
        "SELECT bool_and(extract(epoch FROM paused_until - changed_at) <= 0.96 * pause_seconds) "
        "FROM event_endpoints WHERE state = 'paused'"
    )
    assert await scalar(database, longest)
    await execute(database, "UPDATE event_endpoints SET pause_seconds = 200000")
    for _ in range(10):  # each by chance
        await end_pause(database)
        await bus.deliver_pending()
        assert (await endpoint(bus)).pause_seconds == 300_000
        assert await scalar(database, longest)


@pytest.mark.parametrize("value", ["1e400", "-5", "nan", "Mon, 99 Foo 99999 99:99:99 GMT", "\x80"])
async def test_no_retry_after_stops_the_delivery_to_others(
    quiet: EventBus, database: Database, server: LoopbackServer, value: str
) -> None:
    def respond(request: Request) -> Reply:
        return Reply(429, b"", {"Retry-After": value}) if request.path == "/bad" else Reply()

    server.respond = respond
    await quiet.endpoints.add("bad", f"{server.url}/bad", secret=SECRET)
    await quiet.endpoints.add("good", f"{server.url}/good", secret=SECRET)
    await quiet.emit_many([("a",)] * 3)
    await quiet.deliver_pending()
    assert len(sent_to(server, "/good")) == 3
    states = {one.name: one.state for one in await quiet.endpoints.list()}
    assert states == {"bad": "paused", "good": "active"}


async def test_probes_of_an_endpoint_that_is_down_cost_no_attempts_and_double_the_pause(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(503))
    await bus.emit("a")
    await bus.drain()
    pauses = [(await endpoint(bus)).pause_seconds]
    for _ in range(8):
        await end_pause(database)
        await bus.deliver_pending()
        pauses.append((await endpoint(bus)).pause_seconds)
    assert [one / 1_000 for one in pauses] == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert len(server.requests) == 9
    assert (await delivery(database))["attempts"] == 1
    server.script(Reply())
    await end_pause(database)
    await bus.deliver_pending()
    assert (await delivery(database))["delivered_at"] is not None
    assert (await endpoint(bus)).failing_since is None


async def test_however_many_workers_there_are_one_probe_is_sent(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(503))
    await quiet.endpoints.add(
        "hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"], max_in_flight=1
    )
    await quiet.emit_many([("a",)] * 20)
    await quiet.deliver_pending()
    assert len(server.requests) == 1
    await end_pause(database)
    workers = [EventBus(database, quiet.settings) for _ in range(4)]
    await asyncio.gather(*(worker.deliver_pending() for worker in workers))
    assert len(server.requests) == 2
    assert (await endpoint(quiet, "hook")).pause_seconds == 10_000


async def test_one_event_that_an_endpoint_cannot_digest_does_not_stand_for_its_health(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.respond = lambda request: Reply(500 if b"a.poison" in request.body else 200)
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a.*"])
    await quiet.emit("a.poison")
    await quiet.deliver_pending()
    await quiet.emit("a.good")
    await end_pause(database)
    await quiet.deliver_pending()
    # the probe was the poison, which then went behind the other
    await end_pause(database)
    await quiet.deliver_pending()
    found = {one["event_type"]: one for one in await deliveries(database)}
    assert found["a.good"]["delivered_at"] is not None
    assert found["a.poison"]["delivered_at"] is None


async def test_when_an_endpoint_comes_back_all_that_waits_is_due_at_once(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(503))
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a.*"])
    await quiet.emit_many([("a.x",)] * 50)
    await quiet.deliver_pending()
    await end_pause(database)
    await quiet.deliver_pending()  # a probe that fails
    await execute(
        database,
        "UPDATE event_deliveries SET due_at = now() + interval '5 hours' WHERE attempts = 1",
    )
    server.script(Reply())
    await end_pause(database)
    assert await quiet.deliver_pending() == 50


async def test_five_days_of_failure_disable_hold_and_tell(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    told: list[tuple[object, ...]] = []

    async def notify(*message: object) -> bool:
        told.append(message)
        return True

    server.script(Reply(503))
    await bus.emit("a")
    await bus.drain()
    await execute(
        database, "UPDATE event_endpoints SET failing_since = now() - interval '121 hours'"
    )
    await end_pause(database)
    await bus.deliver_pending(notify=notify)
    assert (await endpoint(bus)).state == "disabled"
    assert "five days" in str((await endpoint(bus)).reason)
    assert (await delivery(database))["due_at"] is not None
    assert len(told) == 1
    assert await scalar(
        database, "SELECT count(*) FROM system_events WHERE event_type = 'endpoint.disabled'"
    )


async def test_gone_disables_at_once_holds_everything_and_enabling_loses_nothing(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(410))
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a.*"])
    await quiet.emit_many([("a.x",)] * 300)
    rival = EventBus(database, quiet.settings)
    await asyncio.gather(quiet.deliver_pending(), rival.deliver_pending())
    assert len(server.requests) <= 21
    assert (await endpoint(quiet, "hook")).state == "disabled"
    sent = len(server.requests)
    await quiet.emit("a.x")
    assert await quiet.deliver_pending() == 0
    assert len(server.requests) == sent
    server.script(Reply())
    assert await quiet.endpoints.enable("hook")
    assert await quiet.deliver_pending() == 301
    assert len({one.headers["webhook-id"] for one in server.requests}) == 301
    assert all(one["delivered_at"] for one in await deliveries(database))
