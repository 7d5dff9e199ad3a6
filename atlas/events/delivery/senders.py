"""One attempt at an endpoint, whatever the endpoint is. Never raises: an outcome is a value."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from atlas import webhook_client
from atlas.config import Settings
from atlas.errors import AtlasError, ConfigurationError, Unavailable
from atlas.events.delivery.signing import read_secrets, signature_headers
from atlas.events.event import Event, timestamp
from atlas.events.handlers import HUNG_THREADS, in_thread
from atlas.logging import get_logger
from atlas.notifications.jobs import note
from atlas.repositories.events.deliveries import Delivery
from atlas.repositories.events.endpoints import Endpoint
from atlas.types import AlertChannel

__all__ = ["HttpSender", "Notify", "Sender", "Verdict", "make_sender", "message", "resolve"]

log = get_logger(__name__)

#: Largest body in bytes; a larger payload is left out and the body says so.
BODY_LIMIT = 20_000
GONE = 410
_json = json.JSONEncoder(ensure_ascii=False).encode

#: Sends a notification: ``await notify(title, description, channel)``; True once it is sent. The
#: notifier's ``send``.
Notify = Callable[[str, str, AlertChannel], Awaitable[bool]]
#: What a rule's target ``handler:NAME`` calls.
TargetHandler = Callable[[Event], Awaitable[object] | object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one attempt. ``pause``: it is the endpoint that is unwell, not the event."""

    delivered: bool = False
    error: str | None = None
    pause: bool = False
    retry_after: float | None = None
    gone: bool = False


class Sender(Protocol):
    """Sends one delivery."""

    async def send(self, delivery: Delivery) -> Verdict:
        """Make one attempt, which ends in time."""
        ...


@dataclass(frozen=True, slots=True)
class HttpSender:
    """POSTs signed messages. ``repr`` shows neither the address nor the keys."""

    client: webhook_client.Client
    url: str
    keys: tuple[bytes, ...]
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"HttpSender(signed={bool(self.keys)})"

    async def send(self, delivery: Delivery) -> Verdict:
        """Make one attempt."""
        message_id = delivery.message_id or str(delivery.event_id)
        return await self.post(message_id, message(delivery))

    async def post(self, message_id: str, body: bytes) -> Verdict:
        """POST one body under an id."""
        headers = {
            **self.headers,
            "content-type": "application/json",
            **signature_headers(self.keys, message_id, int(time.time()), body),
        }
        try:
            answer = await self.client.post(self.url, body, headers)
        except Unavailable as error:
            return Verdict(error=error.message, pause=True)
        if answer.ok:
            return Verdict(delivered=True)
        return Verdict(
            error=f"answered {answer.status}",
            pause=answer.status == 429 or answer.status >= 500,
            retry_after=webhook_client.retry_after(answer),
            gone=answer.status == GONE,
        )


@dataclass(frozen=True, slots=True)
class NotifySender:
    """Notifies the people in a channel, through `Notify`."""

    notify: Notify
    channel: AlertChannel
    timeout: float

    async def send(self, delivery: Delivery) -> Verdict:
        """Make one attempt."""
        title = str(delivery.event_type)
        text = f"{delivery.entity_id or ''}\n{delivery.payload or ''}".strip()
        try:
            async with asyncio.timeout(self.timeout):
                sent = await self.notify(title, text, self.channel)
        except TimeoutError:
            return Verdict(error="no answer in time", pause=True)
        except (Exception, asyncio.CancelledError) as error:
            if _is_ending(error):
                raise
            return Verdict(error=type(error).__name__, pause=True)
        return Verdict(delivered=True) if sent else Verdict(error="was not sent", pause=True)


@dataclass(frozen=True, slots=True)
class HandlerSender:
    """Calls a function of this process; what it raises is the event's trouble, not the endpoint's."""

    handler: TargetHandler
    timeout: float

    async def send(self, delivery: Delivery) -> Verdict:
        """Make one attempt."""
        event = Event(
            str(delivery.event_type),
            delivery.entity_id,
            json.loads(delivery.payload or "{}"),
            delivery.event_id,
            delivery.seq,
            delivery.event_at,
        )
        if _count_hung(self.handler) >= HUNG_THREADS:
            return Verdict(error="calls before this one have not ended", pause=True)
        try:
            async with asyncio.timeout(self.timeout) as limit:
                await self._call(event)
        except (Exception, asyncio.CancelledError) as error:
            if _is_ending(error):
                raise
            if limit.expired():
                return Verdict(error="no answer in time", pause=True)
            if isinstance(error, Exception):
                note(error, "deliverer", event_type=delivery.event_type)
            return Verdict(error=f"{type(error).__name__}: {error}")
        return Verdict(delivered=True)

    async def _call(self, event: Event) -> None:
        if inspect.iscoroutinefunction(self.handler):
            await self.handler(event)
            return
        # not in the loop's own threads: those that hang there would hold up the names of other endpoints
        call, thread = in_thread(asyncio.get_running_loop(), self.handler, event)
        try:
            result = await call
        except asyncio.CancelledError:
            _hung.append((self.handler, thread))
            raise
        if inspect.isawaitable(result):
            await result


#: Threads of plain functions that were not over in time.
_hung: list[tuple[TargetHandler, threading.Thread]] = []


def _count_hung(handler: TargetHandler) -> int:
    _hung[:] = [(one, thread) for one, thread in _hung if thread.is_alive()]
    return sum(one is handler for one, _ in _hung)


def _is_ending(error: BaseException) -> bool:
    """Whether this task is cancelled, and not only what it waited for."""
    task = asyncio.current_task()
    is_cancelled = isinstance(error, asyncio.CancelledError)
    return is_cancelled and task is not None and task.cancelling() > 0


def make_sender(
    endpoint: Endpoint,
    settings: Settings,
    client: webhook_client.Client,
    notify: Notify | None,
    handlers: Mapping[str, TargetHandler],
    timeout: float,
) -> Sender | None:
    """What sends to the endpoint from this process; None: another process has to.

    An attempt takes ``timeout`` seconds at most, or what the client was given.

    Raises `ConfigurationError` where what the endpoint names is wrong.
    """
    kind, _, name = endpoint.url.partition(":")
    if kind == "handler":
        handler = handlers.get(name)
        return None if handler is None else HandlerSender(handler, timeout)
    if kind == "discord":
        return None if notify is None else NotifySender(notify, AlertChannel(name), timeout)
    url = resolve(endpoint.url, settings)
    if url is None:
        return None
    keys: tuple[bytes, ...] = ()
    for secret in (endpoint.secret, endpoint.next_secret):
        if secret is not None:
            text = resolve(secret, settings)
            if text is None and endpoint.name != "default":
                raise ConfigurationError(f"the secret of the endpoint {endpoint.name!r} is not set")
            keys += read_secrets(text or "", f"the secret of the endpoint {endpoint.name!r}")
    return HttpSender(
        client,
        webhook_client.check_url(url, f"the address of the endpoint {endpoint.name!r}"),
        keys,
        endpoint.headers,
    )


def resolve(value: str, settings: Settings) -> str | None:
    """A value, or what the variable holds that ``env:NAME`` names; None where it is not set."""
    if not value.startswith("env:"):
        return value
    name = value.removeprefix("env:")
    field = getattr(settings, name.lower(), None) if name.isupper() else None
    if field is not None and hasattr(field, "get_secret_value"):
        return str(field.get_secret_value()).strip()
    return (os.environ.get(name) or "").strip() or None


def message(delivery: Delivery) -> bytes:
    """The JSON of a delivery, at most `BODY_LIMIT` bytes."""
    payload = delivery.payload or "{}"
    body = _body(delivery, payload)
    if len(body) > BODY_LIMIT:
        log.warning("event_payload_left_out", event_type=delivery.event_type, body_bytes=len(body))
        body = _body(delivery, json.dumps({"truncated": True, "bytes": len(body)}))
    return body


def _body(delivery: Delivery, payload: str) -> bytes:
    moment = timestamp(delivery.event_at)
    # the payload is JSON text already: PostgreSQL wrote it
    return (
        f'{{"id":"{delivery.event_id}","type":{_json(delivery.event_type)},"timestamp":"{moment}",'
        f'"seq":{_json(delivery.seq)},"entity_id":{_json(delivery.entity_id)},"data":{payload}}}'
    ).encode()


def describe(error: Exception) -> str:
    """What happened, without what a foreign error's text may hold."""
    return str(error) if isinstance(error, AtlasError) else type(error).__name__
