"""Delivery of events to the webhook, by Standard Webhooks 1.0.

An event is sent at least once: a lost answer, or a process that dies between the answer and its
record, makes it come again under the same ``webhook-id``. Order is not kept.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from atlas import webhook_client
from atlas.config import Settings
from atlas.errors import Unavailable
from atlas.events.event import Event
from atlas.events.signing import read_secrets, signature_headers
from atlas.logging import get_logger
from atlas.repositories.events import DueEvent, Outbox

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["SCHEDULE", "Webhook", "deliver_due", "send_unrecorded", "subscribed"]

log = get_logger(__name__)

#: Seconds before each attempt, the first included (Standard Webhooks 1.0, "Retry schedule").
SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Seconds that one attempt may take; the specification asks for 15 to 30.
TIMEOUT = 20.0
#: Largest body in bytes; a larger payload is left out and the body says so.
BODY_LIMIT = 20_000
#: Longest wait that a ``Retry-After`` is granted, in seconds.
LONGEST_WAIT = 86_400
#: Events sent at once.
BATCH = 10
#: Answers that ask to be left alone for a while.
SLOW_DOWN = frozenset({429, 502, 503, 504})
GONE = 410


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events go. ``repr`` shows neither the address nor the keys."""

    url: str
    keys: tuple[bytes, ...]
    allow_private: bool
    timeout: float = TIMEOUT

    def __repr__(self) -> str:
        return f"Webhook(signed={bool(self.keys)})"

    @classmethod
    def from_settings(cls, settings: Settings) -> Webhook | None:
        """The webhook of the settings, or None. Raises `ConfigurationError` for a wrong value."""
        if settings.event_bus_webhook_url is None:
            return None
        secret = settings.event_bus_webhook_secret
        return cls(
            webhook_client.check_url(
                settings.event_bus_webhook_url.get_secret_value().strip(), "EVENT_BUS_WEBHOOK_URL"
            ),
            read_secrets(secret.get_secret_value()) if secret is not None else (),
            settings.event_bus_allow_private or settings.throwaway,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt; tried again after ``wait`` seconds unless delivered or final."""

    delivered: bool = False
    error: str = ""
    final: bool = False
    wait: float = 0.0
    slow_down: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """What one call of `deliver_due` did; ``gone``: the endpoint answered 410 and wants no more."""

    delivered: int = 0
    gone: bool = False


def subscribed(settings: Settings, event_type: str) -> bool:
    """Whether the settings name a webhook and its filter lets ``event_type`` through."""
    if settings.event_bus_webhook_url is None:
        return False
    patterns = (pattern.strip() for pattern in settings.event_bus_filter.split(","))
    return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns if pattern)


async def deliver_due(database: Database, webhook: Webhook, limit: int | None = None) -> Run:
    """Send what is due, up to ``limit`` events, and record what became of each.

    Claims are leases by the database's clock; no transaction is open while something is sent. Stops
    early where the endpoint does not answer or asks for a pause; what is left stays due. Raises
    `DatabaseError`; what was sent but could not be recorded is sent again after the lease.
    """
    total, remaining = 0, limit
    lease = timedelta(seconds=2 * webhook.timeout + 30)
    async with webhook_client.client(
        timeout=webhook.timeout, allow_private=webhook.allow_private
    ) as client:
        while remaining is None or remaining > 0:
            size = BATCH if remaining is None else min(BATCH, remaining)
            async with database.transaction() as session:
                due = await Outbox(session).claim(size, lease)
            outcomes = await asyncio.gather(*(_attempt(client, webhook, event) for event in due))
            await _record(database, due, outcomes)
            total += sum(outcome.delivered for outcome in outcomes)
            if any(outcome.gone for outcome in outcomes):
                return Run(total, gone=True)
            if len(due) < size or any(outcome.slow_down for outcome in outcomes):
                break
            remaining = None if remaining is None else remaining - len(due)
    return Run(total)


async def send_unrecorded(webhook: Webhook, event: Event) -> bool:
    """Send an event that has no row, once: better than not at all while the database is away."""
    now = datetime.now(UTC)
    body = _body(f"evt_{uuid.uuid4().hex}", event.event_type, event.entity_id, event.payload, now)
    async with webhook_client.client(
        timeout=webhook.timeout, allow_private=webhook.allow_private
    ) as client:
        return (await _post(client, webhook, *body)).delivered


async def _record(
    database: Database, events: Sequence[DueEvent], outcomes: Sequence[Outcome]
) -> None:
    if not events:
        return
    async with database.transaction() as session:
        outbox = Outbox(session)
        for event, outcome in zip(events, outcomes, strict=True):
            if outcome.delivered:
                await outbox.delivered(event)
            elif outcome.final:
                await outbox.give_up(event, outcome.error)
            else:
                await outbox.retry(event, timedelta(seconds=outcome.wait), outcome.error)


async def _attempt(client: webhook_client.Client, webhook: Webhook, event: DueEvent) -> Outcome:
    """Make the attempt that was claimed, and decide when the next one is."""
    if event.attempts > len(SCHEDULE):  # the last one ended without a report: its worker died
        outcome = Outcome(error="the last attempt was not reported", final=True)
    else:
        message_id = f"evt_{event.id}_{int(event.created_at.timestamp() * 1e6):x}"
        body = _body(message_id, event.event_type, event.entity_id, event.payload, event.created_at)
        outcome = await _post(client, webhook, *body)
    if outcome.delivered or outcome.final:
        pass
    elif event.attempts >= len(SCHEDULE):
        outcome = replace(outcome, final=True)
    else:
        planned = SCHEDULE[event.attempts] * random.uniform(1.0, 1.2)
        outcome = replace(outcome, wait=min(max(planned, outcome.wait), LONGEST_WAIT * 1.2))
    if not outcome.delivered:
        log.warning(
            "event_delivery_failed",
            event_id=event.id,
            event_type=event.event_type,
            attempt=event.attempts,
            error=outcome.error,
            given_up=outcome.final,
            retry_in_seconds=None if outcome.final else round(outcome.wait),
        )
    return outcome


async def _post(
    client: webhook_client.Client, webhook: Webhook, message_id: str, body: bytes
) -> Outcome:
    headers = {
        "content-type": "application/json",
        **signature_headers(webhook.keys, message_id, int(time.time()), body),
    }
    try:
        answer = await client.post(webhook.url, body, headers)
    except Unavailable as error:
        return Outcome(error=error.message, slow_down=True)
    if answer.ok:
        return Outcome(delivered=True)
    return Outcome(
        error=f"answered {answer.status}",
        final=answer.status == GONE,
        wait=webhook_client.retry_after(answer) or 0.0,
        slow_down=answer.status in SLOW_DOWN,
        gone=answer.status == GONE,
    )


def _body(
    message_id: str,
    event_type: str,
    entity_id: str | None,
    payload: dict[str, object],
    created_at: datetime,
) -> tuple[str, bytes]:
    """The message's id and its JSON, at most `BODY_LIMIT` bytes."""
    message: dict[str, object] = {
        "type": event_type,
        "timestamp": created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "entity_id": entity_id,
        "data": payload,
    }
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    if len(body) > BODY_LIMIT:
        log.warning("event_payload_left_out", event_type=event_type, body_bytes=len(body))
        message["data"] = {"truncated": True, "bytes": len(body)}
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    return message_id, body
