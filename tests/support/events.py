"""Events as they lie in the tables, and on their way to a server of the test."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook as Verifier

from atlas.config import Settings
from atlas.db import Database
from atlas.events import EventBus
from atlas.events.delivery.deliverer import Deliverer
from atlas.repositories.events.endpoints import Endpoint
from atlas.repositories.events.log import EventLog, RecordedEvent
from tests.support.servers.http import LoopbackServer, Request
from tests.support.sql import execute, fetch

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 41))).decode()


async def rows(database: Database) -> list[RecordedEvent]:
    """The log, the oldest first."""
    async with database.transaction(read_only=True) as session:
        return (await EventLog(session).recent(100))[::-1]


def settings(server: LoopbackServer, **changes: Any) -> Settings:
    """With the server as the only webhook."""
    values: dict[str, Any] = {
        "env": "test",
        "event_bus_webhook_url": SecretStr(f"{server.url}/hook"),
        "event_bus_webhook_secret": SecretStr(SECRET),
    }
    return Settings(_env_file=None, **{**values, **changes})


async def deliveries(database: Database, of: str = "a%") -> list[dict[str, Any]]:
    """Rows of deliveries, each with its event's type and in how many seconds it is due."""
    return await fetch(
        database,
        "SELECT event_type, event_deliveries.*, extract(epoch FROM due_at - clock_timestamp())::float8 "
        "AS due_in FROM event_deliveries JOIN system_events ON id = event_id "
        "WHERE event_type LIKE :of ORDER BY seq",
        of=of,
    )


async def delivery(database: Database) -> dict[str, Any]:
    """The only one."""
    (only,) = await deliveries(database)
    return only


async def endpoint(bus: EventBus, name: str = "default") -> Endpoint:
    """An endpoint by its name."""
    return next(one for one in await bus.endpoints.list() if one.name == name)


async def end_pause(database: Database) -> None:
    """Paused endpoints may be probed."""
    await execute(
        database, "UPDATE event_endpoints SET paused_until = now() WHERE state = 'paused'"
    )


async def make_due(database: Database) -> None:
    """What waits for its next attempt may be sent."""
    await execute(database, "UPDATE event_deliveries SET due_at = now() WHERE due_at IS NOT NULL")


async def until_delivered(worker: Deliverer, count: int) -> None:
    """Wait until a worker has delivered so many."""
    while worker.delivered < count:  # noqa: ASYNC110 - it sets no event at a count
        await asyncio.sleep(0.02)


def of_type(server: LoopbackServer, prefix: str = "a") -> list[Request]:
    """The requests of the test's events, without those by which the endpoint speaks of itself."""
    return [one for one in server.requests if json.loads(one.body)["type"].startswith(prefix)]


def sent_to(server: LoopbackServer, path: str) -> list[Request]:
    """Those of them that went to one path."""
    return [one for one in of_type(server) if one.path == path]


async def until_sent(server: LoopbackServer, path: str, count: int) -> None:
    """Wait until so many of them went to one path."""
    while len(sent_to(server, path)) < count:  # noqa: ASYNC110 - it sets no event at a count
        await asyncio.sleep(0.02)


def verified(request: Request, secret: str = SECRET) -> dict[str, Any]:
    """The body, if the signature is right."""
    body: dict[str, Any] = Verifier(secret).verify(request.body.decode(), dict(request.headers))
    return body
