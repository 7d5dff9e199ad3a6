"""Signatures that receivers accept, while secrets rotate and where settings are wrong."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from standardwebhooks.webhooks import WebhookVerificationError

from atlas.db import Database
from atlas.events import EventBus
from tests.support.events import OTHER, SECRET, of_type, rows, settings, verified
from tests.support.servers.http import LoopbackServer, Request


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
    told = [row.payload for row in await rows(database) if row.event_type == "endpoint.rotated"]
    assert told == [{"rotating": True}, {"rotating": False}]


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
