"""Delivery of events to a webhook: real server, real signatures, real rows."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import ConfigurationError
from atlas.events import Event, EventBus
from atlas.events.delivery import SCHEDULE
from atlas.repositories.events import EventLog, Outbox, RecordedEvent
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server

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


async def rows(database: Database) -> list[RecordedEvent]:
    async with database.transaction(read_only=True) as session:
        return (await EventLog(session).recent(100))[::-1]


async def row(database: Database) -> RecordedEvent:
    (only,) = await rows(database)
    return only


async def seconds_until_due(database: Database) -> float:
    async with database.transaction() as session:
        result = await session.execute(
            text("SELECT extract(epoch FROM deliver_at - clock_timestamp()) FROM system_events")
        )
        return float(result.scalar_one())


async def make_due(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE system_events SET deliver_at = now() WHERE deliver_at IS NOT NULL")
        )


def verified(request: Request, secret: str = SECRET) -> dict[str, Any]:
    """The body, if the signature is right."""
    body: dict[str, Any] = Verifier(secret).verify(request.body.decode(), dict(request.headers))
    return body


async def test_an_event_is_sent_signed_and_marked_delivered(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    await bus.emit("video.discovered", "V1", {"title": "é 😀"})
    await bus.drain()
    stored = await row(database)
    (request,) = server.requests
    body = verified(request)
    assert (body["type"], body["entity_id"], body["data"]) == (
        "video.discovered",
        "V1",
        {"title": "é 😀"},
    )
    assert request.headers["content-type"] == "application/json"
    assert request.headers["webhook-id"].startswith(f"evt_{stored.id}_")
    assert stored.delivered_at is not None
    assert (stored.deliver_at, stored.attempts, stored.last_error) == (None, 1, None)
    assert await bus.deliver_pending() == 0


async def test_while_a_secret_rotates_both_receivers_accept(
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
    ],
    ids=["no prefix", "too short", "no base64", "scheme", "no address"],
)
async def test_a_wrong_webhook_setting_is_named_without_its_value_and_loses_no_event(
    database: Database, server: LoopbackServer, changes: dict[str, Any]
) -> None:
    bus = EventBus(database, settings(server, **changes))
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a")
        await bus.drain()
    with pytest.raises(ConfigurationError, match="EVENT_BUS_WEBHOOK_") as caught:
        await bus.deliver_pending()
    value = next(iter(changes.values())).get_secret_value()
    assert value not in f"{caught.value}{logs}"
    assert (await row(database)).deliver_at is not None
    assert server.requests == []


@pytest.mark.parametrize(
    ("patterns", "due"),
    [
        ("*", True),
        ("video.*, archive.*", True),
        ("archive.*", False),
        ("", False),
        ("VIDEO.*", False),
    ],
)
async def test_only_what_the_filter_lets_through_is_sent(
    database: Database, server: LoopbackServer, patterns: str, due: bool
) -> None:
    bus = EventBus(database, settings(server, event_bus_filter=patterns))
    await bus.emit("video.discovered")
    await bus.drain()
    assert len(server.requests) == due
    assert ((await row(database)).delivered_at is not None) == due


async def test_an_undone_event_is_never_sent_and_a_committed_one_is(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    async with database.session() as session:
        await bus.emit("undone", session=session)
        await session.rollback()
        await bus.emit("kept", session=session)
        await session.commit()
    await bus.drain()
    assert [verified(request)["type"] for request in server.requests] == ["kept"]


@pytest.mark.parametrize(
    "trouble",
    [Reply(500), Reply(404), Reply(cut=True), Reply(307, b"", {"Location": "/elsewhere"})],
    ids=["500", "404", "cut", "redirect"],
)
async def test_a_failed_attempt_is_repeated_under_the_same_id(
    bus: EventBus, database: Database, server: LoopbackServer, trouble: Reply
) -> None:
    server.script(trouble, Reply(204))
    await bus.emit("a")
    await bus.drain()
    failed = await row(database)
    assert failed.delivered_at is None
    assert failed.last_error
    assert 0 < await seconds_until_due(database) <= SCHEDULE[1] * 1.2
    assert await bus.deliver_pending() == 0  # not due yet
    await make_due(database)
    assert await bus.deliver_pending() == 1
    first, second = server.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert verified(first) == verified(second)
    assert (await row(database)).delivered_at is not None


async def test_a_receiver_that_never_answers_is_given_up_after_the_timeout(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(hang=True))
    bus.timeout = 0.05
    await bus.emit("a")
    await bus.drain()
    assert "Timeout" in str((await row(database)).last_error)


async def test_retry_after_is_honoured_where_it_is_longer_than_the_schedule(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(429, b"", {"Retry-After": "1000"}))
    await bus.emit("a")
    await bus.drain()
    assert 900 < await seconds_until_due(database) <= 1000


async def test_a_receiver_that_asks_for_a_pause_is_not_sent_the_rest_of_the_queue(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(503))
    async with database.transaction() as session:
        for number in range(25):
            await Outbox(session).add(f"a{number}", None, {}, deliver=True)
    assert await bus.deliver_pending() == 0
    assert len(server.requests) == 10


async def test_a_long_queue_is_sent_whole_and_each_event_once(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    async with database.transaction() as session:
        for number in range(25):
            await Outbox(session).add(f"a{number}", None, {}, deliver=True)
    assert await bus.deliver_pending(limit=3) == 3
    rivals = await asyncio.gather(bus.deliver_pending(), bus.deliver_pending())
    assert sum(rivals) == 22
    assert len({request.headers["webhook-id"] for request in server.requests}) == 25
    assert len(server.requests) == 25


async def test_after_the_last_attempt_the_event_is_given_up_with_its_error(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(500))
    await bus.emit("a")
    await bus.drain()
    for _ in SCHEDULE[1:]:
        await make_due(database)
        await bus.deliver_pending()
    await make_due(database)
    assert await bus.deliver_pending() == 0
    assert len(server.requests) == len(SCHEDULE)
    stored = await row(database)
    assert (stored.deliver_at, stored.delivered_at) == (None, None)
    assert (stored.attempts, stored.last_error) == (len(SCHEDULE), "answered 500")


async def test_a_worker_that_dies_each_time_does_not_keep_an_event_for_ever(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    async with database.transaction() as session:
        await Outbox(session).add("a", None, {}, deliver=True)
        for _ in SCHEDULE:
            assert await Outbox(session).claim(1, timedelta(0))
    assert await bus.deliver_pending() == 0
    assert server.requests == []
    assert (await row(database)).deliver_at is None


async def test_gone_ends_the_sending_but_loses_no_other_event(
    bus: EventBus, database: Database, server: LoopbackServer
) -> None:
    server.script(Reply(410))
    async with database.transaction() as session:
        for number in range(12):
            await Outbox(session).add(f"a{number}", None, {}, deliver=True)
    assert await bus.deliver_pending() == 0
    assert await bus.deliver_pending() == 0
    await bus.emit("later")
    await bus.drain()
    assert len(server.requests) == 10
    stored = await rows(database)
    assert sum(each.deliver_at is not None for each in stored) == 2
    assert stored[-1].deliver_at is None


async def test_a_lost_lease_reports_nothing(bus: EventBus, database: Database) -> None:
    async with database.transaction() as session:
        outbox = Outbox(session)
        await outbox.add("a", None, {}, deliver=True)
        (stale,) = await outbox.claim(1, timedelta(0))
        (current,) = await outbox.claim(1, timedelta(seconds=60))
        assert await outbox.claim(1, timedelta(seconds=60)) == []
        assert not await outbox.retry(stale, timedelta(0), "late")
        assert await outbox.delivered(current)


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
    assert "private" in str((await row(database)).last_error)
    await make_due(database)
    allowing = EventBus(database, settings(server, env="prod", event_bus_allow_private=True))
    assert await allowing.deliver_pending() == 1


async def test_a_name_that_resolves_to_a_private_address_is_refused_too(
    database: Database, server: LoopbackServer
) -> None:
    url = SecretStr(server.url.replace("127.0.0.1", "localhost"))
    bus = EventBus(database, settings(server, env="prod", event_bus_webhook_url=url))
    await bus.emit("a")
    await bus.drain()
    assert server.requests == []
    assert "private" in str((await row(database)).last_error)


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
            await make_due(database)
            await bus.deliver_pending()
    assert logs
    assert "s3cr3t" not in json.dumps([logs, [each.last_error for each in await rows(database)]])


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
    stored = asyncio.run(row(database))
    assert stored.deliver_at is not None
    assert stored.delivered_at is None
    server.script(Reply())
    asyncio.run(make_due(database))
    assert asyncio.run(bus.deliver_pending()) == 1
