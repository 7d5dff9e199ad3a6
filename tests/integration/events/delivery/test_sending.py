"""What is sent to an endpoint, to whom, and what is not."""

from __future__ import annotations

import pytest
import structlog
from pydantic import SecretStr

from atlas.db import Database
from atlas.events import Event, EventBus
from tests.support.events import deliveries, delivery, end_pause, settings, verified
from tests.support.servers.http import LoopbackServer, Reply
from tests.support.sql import fetch, scalar


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
