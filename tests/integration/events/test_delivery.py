"""Delivery of events to endpoints: real server, real signatures, real rows."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from atlas.config import Settings
from atlas.db import Database
from atlas.events import Event, EventBus
from atlas.events.delivery import deliverer
from atlas.events.delivery.deliverer import IN_A_ROW, SCHEDULE, Deliverer
from atlas.events.delivery.router import route_page
from atlas.events.delivery.windows import Window
from atlas.repositories.events.deliveries import EventDeliveries, Outcome
from atlas.repositories.events.endpoints import Endpoint
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server
from tests.support.sql import execute, fetch, scalar

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 41))).decode()


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


def settings(server: LoopbackServer, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "env": "test",
        "event_bus_webhook_url": SecretStr(f"{server.url}/hook"),
        "event_bus_webhook_secret": SecretStr(SECRET),
    }
    return Settings(_env_file=None, **{**values, **changes})


@pytest.fixture
async def bus(database: Database, server: LoopbackServer) -> AsyncIterator[EventBus]:
    made = EventBus(database, settings(server))
    yield made
    await made.drain()


@pytest.fixture
async def quiet(database: Database) -> AsyncIterator[EventBus]:
    """A bus without a webhook in its settings: nothing is delivered unasked."""
    made = EventBus(database, Settings(_env_file=None, env="test"))
    yield made
    await made.drain()


async def deliveries(database: Database, of: str = "a%") -> list[dict[str, Any]]:
    return await fetch(
        database,
        "SELECT event_type, event_deliveries.*, extract(epoch FROM due_at - clock_timestamp())::float8 "
        "AS due_in FROM event_deliveries JOIN system_events ON id = event_id "
        "WHERE event_type LIKE :of ORDER BY seq",
        of=of,
    )


async def delivery(database: Database) -> dict[str, Any]:
    (only,) = await deliveries(database)
    return only


async def endpoint(bus: EventBus, name: str = "default") -> Endpoint:
    return next(one for one in await bus.endpoints.list() if one.name == name)


async def end_pause(database: Database) -> None:
    await execute(
        database, "UPDATE event_endpoints SET paused_until = now() WHERE state = 'paused'"
    )


async def make_due(database: Database) -> None:
    await execute(database, "UPDATE event_deliveries SET due_at = now() WHERE due_at IS NOT NULL")


async def until_delivered(worker: Deliverer, count: int) -> None:
    while worker.delivered < count:  # noqa: ASYNC110 - it sets no event at a count
        await asyncio.sleep(0.02)


def of_type(server: LoopbackServer, prefix: str = "a") -> list[Request]:
    """The requests of the test's events, without those by which the endpoint speaks of itself."""
    return [one for one in server.requests if json.loads(one.body)["type"].startswith(prefix)]


def verified(request: Request, secret: str = SECRET) -> dict[str, Any]:
    """The body, if the signature is right."""
    body: dict[str, Any] = Verifier(secret).verify(request.body.decode(), dict(request.headers))
    return body


async def test_an_event_is_sent_signed_and_marked_delivered(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    await bus.emit("a.discovered", "V1", {"title": "é 😀"})
    await bus.drain()
    stored = await delivery(database)
    (request,) = server.requests
    body = verified(request)
    assert sorted(body) == ["data", "entity_id", "id", "seq", "timestamp", "type"]
    assert (body["type"], body["entity_id"], body["data"]) == (
        "a.discovered",
        "V1",
        {"title": "é 😀"},
    )
    assert body["id"] == request.headers["webhook-id"] == str(stored["event_id"])
    assert body["seq"] == await scalar(database, "SELECT seq FROM system_events")
    assert request.headers["content-type"] == "application/json"
    assert stored["delivered_at"] is not None
    assert (stored["due_at"], stored["attempts"], stored["last_error"]) == (None, 1, None)
    assert await bus.deliver_pending() == 0
    assert len(server.requests) == 1


async def test_while_a_secret_rotates_both_receivers_accept(
    database: Database, server: LoopbackServer, quiet: EventBus
) -> None:
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET)
    await quiet.endpoints.rotate("hook", OTHER)
    await quiet.emit("a")
    await quiet.deliver_pending()
    request = of_type(server)[0]
    assert verified(request, SECRET) == verified(request, OTHER)
    await quiet.endpoints.rotate("hook", None)
    await quiet.emit("a")
    await quiet.deliver_pending()
    assert verified(of_type(server)[1], OTHER)
    with pytest.raises(WebhookVerificationError):
        verified(of_type(server)[1], SECRET)


async def test_two_secrets_of_the_settings_sign_both(
    database: Database, server: LoopbackServer
) -> None:
    secrets = SecretStr(f"{OTHER} {SECRET}")
    bus = EventBus(database, settings(server, event_bus_webhook_secret=secrets))
    await bus.emit("a")
    await bus.drain()
    assert verified(server.requests[0], SECRET) == verified(server.requests[0], OTHER)


async def test_a_changed_body_is_not_accepted(bus: EventBus, server: LoopbackServer) -> None:
    await bus.emit("a", {"views": 1})
    await bus.drain()
    request = server.requests[0]
    forged = Request(request.method, request.path, request.headers, request.body + b" ")
    with pytest.raises(WebhookVerificationError):
        verified(forged)


async def test_without_a_secret_events_go_unsigned_with_one_warning(
    database: Database, server: LoopbackServer
) -> None:
    bus = EventBus(database, settings(server, event_bus_webhook_secret=None))
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a")
        await bus.drain()
        await bus.emit("b")
        await bus.drain()
    assert len(server.requests) == 2
    assert all("webhook-signature" not in request.headers for request in server.requests)
    assert [entry["event"] for entry in logs] == ["event_webhook_unsigned"]


@pytest.mark.parametrize(
    "changes",
    [
        {"event_bus_webhook_secret": SecretStr("plain-text-secret")},
        {"event_bus_webhook_secret": SecretStr("whsec_dG9vc2hvcnQ=")},
        {"event_bus_webhook_secret": SecretStr("whsec_%%%%")},
        {"event_bus_webhook_url": SecretStr("ftp://plain-text-secret/")},
        {"event_bus_webhook_url": SecretStr("plain-text-secret")},
        {"event_bus_webhook_url": SecretStr(f"http://{'plain-text-secret' * 4}/")},
    ],
    ids=["no prefix", "too short", "no base64", "scheme", "no address", "long label"],
)
async def test_a_wrong_webhook_setting_is_named_without_its_value_and_stops_nobody_else(
    database: Database, server: LoopbackServer, quiet: EventBus, changes: dict[str, Any]
) -> None:
    await quiet.endpoints.add("good", f"{server.url}/good", secret=SECRET)
    bus = EventBus(database, settings(server, **changes))
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a")
        await bus.drain()
        assert await bus.deliver_pending() == 0
    assert "EVENT_BUS_WEBHOOK_" in str(logs)
    value = next(iter(changes.values())).get_secret_value()
    assert value not in str(logs)
    assert [request.path for request in of_type(server)] == ["/good"]


@pytest.mark.parametrize(
    ("patterns", "due"),
    [("*", True), ("a.*, archive.*", True), ("archive.*", False), ("", False), ("A.*", False)],
)
async def test_only_what_the_filter_lets_through_is_sent(
    database: Database, server: LoopbackServer, patterns: str, due: bool
) -> None:
    bus = EventBus(database, settings(server, event_bus_filter=patterns))
    await bus.emit("a.discovered")
    await bus.drain()
    assert len(server.requests) == due
    assert len(await deliveries(database)) == due


async def test_an_undone_event_is_never_sent_and_a_committed_one_is(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    async with database.session() as session:
        await bus.emit("a.undone", session=session)
        await session.rollback()
        await bus.emit("a.kept", session=session)
        await session.commit()
    await bus.drain()
    assert [verified(request)["type"] for request in server.requests] == ["a.kept"]


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
    assert (paused.state, paused.pause_seconds) == ("paused", 5)
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
    assert 0 < failed["due_in"] <= SCHEDULE[1]
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
    assert len([one for one in of_type(server) if one.path == "/good"]) == 3
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
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert len(server.requests) == 9
    assert (await delivery(database))["attempts"] == 1
    server.script(Reply())
    await end_pause(database)
    await bus.deliver_pending()
    assert (await delivery(database))["delivered_at"] is not None
    assert (await endpoint(bus)).failing_since is None


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


async def test_a_receiver_that_never_answers_holds_nobody_up(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.respond = lambda request: Reply(hang=request.path == "/hangs")
    await quiet.endpoints.add("hangs", f"{server.url}/hangs", secret=SECRET)
    await quiet.endpoints.add("good", f"{server.url}/good", secret=SECRET)
    await quiet.emit_many([("a",)] * 200)
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())
    got = lambda: sum(one.path == "/good" for one in of_type(server))  # noqa: E731 - said once
    while got() < 200:  # noqa: ASYNC110 - no event at a count
        await asyncio.sleep(0.02)
    assert len([one for one in of_type(server) if one.path == "/hangs"]) <= 10
    server.closing.set()
    worker.stop()
    await running


async def test_a_long_queue_is_sent_whole_and_each_event_once(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    await quiet.emit_many([("a",)] * 250)
    assert await quiet.deliver_pending(limit=3) == 3
    rivals = await asyncio.gather(quiet.deliver_pending(), quiet.deliver_pending())
    assert sum(rivals) == 247
    assert len({request.headers["webhook-id"] for request in server.requests}) == 250
    assert len(server.requests) == 250


async def test_after_the_last_attempt_the_event_is_a_dead_letter_with_its_error_until_replayed(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(400))
    await bus.emit("a")
    await bus.drain()
    for _ in SCHEDULE[1:4]:
        await make_due(database)
        await bus.deliver_pending()
    await execute(database, "UPDATE event_deliveries SET attempts = :n", n=len(SCHEDULE) - 1)
    await make_due(database)
    await bus.deliver_pending()
    stored = await delivery(database)
    assert (stored["due_at"], stored["delivered_at"]) == (None, None)
    assert (stored["attempts"], stored["last_error"]) == (len(SCHEDULE), "answered 400")
    server.script(Reply())
    await execute(database, "UPDATE event_endpoints SET state = 'active'")
    assert await bus.deliver_pending() == 0
    async with database.transaction() as session:
        replayed = await EventDeliveries(session).replay([stored["endpoint_id"]], dead_only=True)
    assert replayed == 1
    assert await bus.deliver_pending() == 1
    assert len({one.headers["webhook-id"] for one in of_type(server)}) == 1


async def test_what_a_dead_worker_held_comes_back_and_its_late_report_changes_nothing(
    bus: EventBus, quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    await quiet.emit("a")
    await route_page(database)
    async with database.transaction() as session:
        (stale,) = await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 0)
    async with database.transaction() as session:
        (held,) = await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 60)
        assert await EventDeliveries(session).claim({made.id: 5}, {}, uuid.uuid4(), 60) == []
        assert await EventDeliveries(session).report([Outcome(stale, delivered=True)]) == 0
        assert await EventDeliveries(session).report([Outcome(held, delivered=True)]) == 1
    assert (await delivery(database))["attempts"] == 2


async def test_an_over_large_payload_is_left_out_and_the_body_says_so(
    bus: EventBus, server: LoopbackServer
) -> None:
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a", "V1", {"text": "x" * 30_000})
        await bus.drain()
    body = verified(server.requests[0])
    assert body["data"]["truncated"] is True
    assert body["entity_id"] == "V1"
    assert len(server.requests[0].body) < 20_000
    assert [entry["event"] for entry in logs] == ["event_payload_left_out"]


async def test_outside_dev_and_test_a_private_address_is_refused_unless_allowed(
    database: Database, server: LoopbackServer
) -> None:
    refusing = EventBus(database, settings(server, env="prod"))
    await refusing.emit("a")
    await refusing.drain()
    assert server.requests == []
    assert "private" in str((await delivery(database))["last_error"])
    await end_pause(database)
    allowing = EventBus(database, settings(server, env="prod", event_bus_allow_private=True))
    assert await allowing.deliver_pending() >= 1


async def test_a_name_that_resolves_to_a_private_address_is_refused_too(
    database: Database, server: LoopbackServer
) -> None:
    url = SecretStr(server.url.replace("127.0.0.1", "localhost"))
    bus = EventBus(database, settings(server, env="prod", event_bus_webhook_url=url))
    await bus.emit("a")
    await bus.drain()
    assert server.requests == []
    assert "private" in str((await delivery(database))["last_error"])


async def test_with_the_database_away_the_webhook_still_gets_the_event_once(
    server: LoopbackServer,
) -> None:
    bus = EventBus(Database("postgresql://nobody@127.0.0.1:1/none"), settings(server))
    seen: list[Event] = []
    bus.on("*")(seen.append)
    await bus.emit("a", "V1")
    await bus.drain()
    (request,) = server.requests
    assert verified(request)["entity_id"] == "V1"
    assert len(seen) == 1


async def test_no_log_line_or_row_holds_the_webhook_address(
    database: Database, server: LoopbackServer
) -> None:
    url = SecretStr(f"{server.url}/s3cr3t-path?token=s3cr3t")
    bus = EventBus(database, settings(server, event_bus_webhook_url=url))
    with structlog.testing.capture_logs() as logs:
        for reply in (Reply(500), Reply(cut=True), Reply(410)):
            server.script(reply)
            await bus.emit("a")
            await bus.drain()
            await end_pause(database)
            await bus.deliver_pending()
    assert logs
    rows = await fetch(database, "SELECT * FROM event_endpoints")
    assert "s3cr3t" not in str([logs, rows, await deliveries(database, "%")])


def test_a_loop_that_ends_during_a_delivery_ends_quietly_and_the_event_stays_due(
    database: Database, server: LoopbackServer
) -> None:
    arrived = threading.Event()

    def hang(request: Request) -> Reply:
        arrived.set()
        return Reply(hang=True)

    server.respond = hang
    bus = EventBus(database, settings(server))

    async def work() -> None:
        await bus.emit("a")
        await asyncio.to_thread(arrived.wait)

    asyncio.run(work())
    stored = asyncio.run(delivery(database))
    assert stored["due_at"] is not None
    assert stored["delivered_at"] is None
    server.script(Reply())
    asyncio.run(make_due(database))
    assert asyncio.run(bus.deliver_pending()) == 1


async def test_a_request_slow_among_quick_ones_holds_only_itself(
    quiet: EventBus, database: Database, server: LoopbackServer
) -> None:
    release = threading.Event()

    def respond(request: Request) -> Reply:
        slow = json.loads(request.body)["data"].get("slow")
        return Reply(until=release) if slow else Reply()

    server.respond = respond
    await quiet.endpoints.add("hook", f"{server.url}/hook", secret=SECRET, patterns=["a*"])
    # more slow ones than the window is wide, between quick ones
    await quiet.emit_many([("a", None, {"slow": n % 20 == 19}) for n in range(400)])
    worker = quiet.deliverer()
    running = asyncio.create_task(worker.run())
    await until_delivered(worker, 380)
    release.set()
    worker.stop()
    await running


async def test_with_one_request_at_a_time_none_overtakes(
    quiet: EventBus, server: LoopbackServer
) -> None:
    made = await quiet.endpoints.add("hook", f"{server.url}/hook", max_in_flight=1)
    window = Window(made, None, made.max_in_flight)
    attempt = window.begin(None)  # type: ignore[arg-type]
    attempt.started -= 100
    window.successes = 1_000
    assert not window.has_room()


def test_what_a_dead_worker_held_is_back_within_half_a_minute() -> None:
    assert deliverer.TIMEOUT + deliverer.FRESH + 2 < 30
