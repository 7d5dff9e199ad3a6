"""The endpoint of the settings: checked once, and used alone while the log cannot be written."""

from __future__ import annotations

import fnmatch
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime

from atlas import webhook_client
from atlas.config import Settings
from atlas.events.delivery.endpoints import default_endpoint
from atlas.events.delivery.senders import HttpSender, describe, message, resolve
from atlas.events.delivery.signing import read_secrets
from atlas.events.event import Event
from atlas.logging import get_logger
from atlas.repositories.events.deliveries import Delivery

__all__ = ["check_default", "send_unrecorded"]

log = get_logger(__name__)


def check_default(settings: Settings) -> None:
    """Refuse a wrong webhook of the settings; log that it is not signed or not encrypted.

    Raises `InvalidInput` and `ConfigurationError`.
    """
    url = webhook_client.check_url(
        resolve("env:EVENT_BUS_WEBHOOK_URL", settings) or "", "EVENT_BUS_WEBHOOK_URL"
    )
    if not read_secrets(resolve("env:EVENT_BUS_WEBHOOK_SECRET", settings) or ""):
        log.warning("event_webhook_unsigned", hint="set EVENT_BUS_WEBHOOK_SECRET")
    if url.startswith("http://") and not settings.throwaway:
        log.warning("event_webhook_unencrypted", hint="use https:// in EVENT_BUS_WEBHOOK_URL")


async def send_unrecorded(settings: Settings, timeout: float, events: list[Event]) -> None:
    """Send events that are not in the log, once each; raises nothing.

    Better than not at all while the database is away.
    """
    try:
        url = webhook_client.check_url(
            resolve("env:EVENT_BUS_WEBHOOK_URL", settings) or "", "EVENT_BUS_WEBHOOK_URL"
        )
        keys = read_secrets(resolve("env:EVENT_BUS_WEBHOOK_SECRET", settings) or "")
        allow = settings.event_bus_allow_private or settings.throwaway
        new = default_endpoint(settings)
        async with webhook_client.client(timeout=timeout, allow_private=allow) as client:
            sender = HttpSender(client, url, keys, {})
            for event in events:
                if new is None or not _wanted(event.event_type, new.patterns):
                    continue
                verdict = await sender.post(str(event.id), message(_unrecorded(event)))
                log.warning(
                    "event_sent_unrecorded",
                    event_type=event.event_type,
                    delivered=verdict.delivered,
                )
    except Exception as error:
        log.error("event_delivery_stopped", error=describe(error))


def _unrecorded(event: Event) -> Delivery:
    payload, nil = json.dumps(event.payload, ensure_ascii=False), uuid.UUID(int=0)
    now = datetime.now(UTC)
    return Delivery(
        event.id, 0, now, 1, None, None, event.event_type, event.entity_id, payload, nil
    )


def _wanted(event_type: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)
