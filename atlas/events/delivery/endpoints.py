"""Making and keeping endpoints and rules: everything is checked where it is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from atlas import webhook_client
from atlas.config import Settings
from atlas.errors import InvalidInput
from atlas.events.delivery.senders import resolve
from atlas.events.delivery.signing import read_secrets
from atlas.events.patterns import check_condition, check_pattern
from atlas.logging import get_logger
from atlas.repositories.events.deliveries import EventDeliveries
from atlas.repositories.events.endpoints import Endpoint, EventEndpoints, NewEndpoint, Route
from atlas.types import AlertChannel

if TYPE_CHECKING:
    from atlas.events.bus import EventBus

__all__ = ["DEFAULT", "Endpoints", "check_endpoint", "check_handler", "default_endpoint"]

log = get_logger(__name__)

#: The endpoint of EVENT_BUS_WEBHOOK_URL.
DEFAULT = "default"
MAX_IN_FLIGHT = 100

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
# one that a rule names is part of the name that its endpoint gets
_HANDLER = re.compile(r"[A-Za-z0-9_.:-]{1,92}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]{0,4000}")
#: Set by Atlas or by HTTP itself.
_RESERVED = frozenset({"content-type", "content-length", "host", "connection", "transfer-encoding"})


def check_endpoint(
    name: object,
    url: object,
    *,
    secret: object = None,
    next_secret: object = None,
    patterns: Sequence[object] = ("*",),
    condition: object = None,
    headers: Mapping[Any, Any] | None = None,
    max_in_flight: int = 10,
) -> NewEndpoint:
    """An endpoint that can be made. Raises `InvalidInput` naming the field, never showing a secret."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            "name takes 1 to 100 letters, digits, _, ., : and -", field="name", value=name
        )
    if not isinstance(max_in_flight, int) or not 1 <= max_in_flight <= MAX_IN_FLIGHT:
        raise InvalidInput(
            f"max_in_flight takes 1 to {MAX_IN_FLIGHT}", field="max_in_flight", value=max_in_flight
        )
    return NewEndpoint(
        name,
        _url(url),
        _secret(secret, "secret"),
        _secret(next_secret, "next_secret"),
        tuple(check_pattern(pattern, "patterns") for pattern in patterns),
        check_condition(condition),
        _headers(headers or {}),
        max_in_flight,
    )


def check_handler(name: object, field: str = "name") -> str:
    """Return what ``handler:NAME`` may name. Raises `InvalidInput`."""
    if not isinstance(name, str) or not _HANDLER.fullmatch(name):
        raise InvalidInput(
            "a handler's name takes 1 to 92 letters, digits, _, ., : and -",
            field=field,
            value=name,
        )
    return name


def _url(url: object, field: str = "url") -> str:
    if not isinstance(url, str):
        raise InvalidInput(f"{field} must be text", field=field)
    if url.startswith("env:"):
        return _variable(url, field)
    kind, _, target = url.partition(":")
    if kind == "discord":
        if target not in list(AlertChannel):
            raise InvalidInput(
                f"{field} names a channel: discord:{'|'.join(AlertChannel)}", field=field, value=url
            )
        return url
    if kind == "handler":
        return f"handler:{check_handler(target, field)}"
    problem = webhook_client.url_problem(url)
    if problem is not None:
        raise InvalidInput(
            f"url cannot be used: {problem}", field="url", hint="write https://host/path"
        )
    return url


def _secret(value: object, field: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value.startswith("env:"):
        return _variable(value, field)
    try:
        if isinstance(value, str) and len(read_secrets(value)) == 1:
            return value.strip()
    except ValueError:
        pass
    raise InvalidInput(
        f"{field} is not one signing secret",
        field=field,
        hint="it takes whsec_ followed by the base64 of 24 to 64 random bytes, or env:NAME",
    ) from None


def _variable(value: str, field: str) -> str:
    if not _VARIABLE.fullmatch(value.removeprefix("env:")):
        raise InvalidInput(f"{field} names no variable: write env:NAME", field=field)
    return value


def _headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER.fullmatch(name):
            raise InvalidInput("headers holds a name that HTTP does not take", field="headers")
        if name.lower() in _RESERVED or name.lower().startswith("webhook-"):
            raise InvalidInput(f"headers may not set {name}", field="headers")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InvalidInput(
                f"headers: the value of {name} must be printable ASCII on one line", field="headers"
            )
    return {str(name): str(value) for name, value in headers.items()}


def default_endpoint(settings: Settings) -> NewEndpoint | None:
    """The endpoint of the settings, or None. Raises `InvalidInput` for a wrong filter."""
    if settings.event_bus_webhook_url is None:
        return None
    patterns = [pattern.strip() for pattern in settings.event_bus_filter.split(",")]
    return NewEndpoint(
        DEFAULT,
        "env:EVENT_BUS_WEBHOOK_URL",
        "env:EVENT_BUS_WEBHOOK_SECRET",
        patterns=tuple(check_pattern(one, "EVENT_BUS_FILTER") for one in patterns if one),
    )


class Endpoints:
    """What an operator does with endpoints and rules; each call is one transaction, and says so by
    an event.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def add(self, name: str, url: str, **options: Any) -> Endpoint:
        """Make an endpoint; it gets events from now on. Options as `check_endpoint`.

        Raises `InvalidInput`, and `Conflict` where the name is taken.
        """
        new = check_endpoint(name, url, **options)
        address = resolve(new.url, self._bus.settings) or ""
        if address.startswith("http://") and not self._bus.settings.throwaway:
            log.warning("event_endpoint_unencrypted", endpoint=name, hint="use https://")
        if new.secret is None and new.url.startswith(("http", "env:")):
            log.warning("event_endpoint_unsigned", endpoint=name, hint="give it a secret")
        async with self._bus.database.transaction() as session:
            endpoint = await EventEndpoints(session).add(new)
            await self._emit(session, "endpoint.added", endpoint)
        return endpoint

    async def list(self) -> list[Endpoint]:
        """Every endpoint."""
        async with self._bus.database.transaction(read_only=True) as session:
            return await EventEndpoints(session).all()

    async def counts(self) -> dict[int, tuple[int, int, int]]:
        """By endpoint id: deliveries that wait, that were made, and dead letters."""
        async with self._bus.database.transaction(read_only=True) as session:
            return await EventDeliveries(session).counts()

    async def enable(self, name: str) -> bool:
        """Send again; what was held is due at once. False: it was active. Raises `NotFound`."""
        async with self._bus.database.transaction() as session:
            endpoint = await EventEndpoints(session).get(name)
            changed = await EventEndpoints(session).enable(endpoint.id)
            if changed:
                await EventDeliveries(session).make_due(endpoint.id)
                await self._emit(session, "endpoint.enabled", endpoint)
        return changed

    async def disable(self, name: str, reason: str = "disabled by an operator") -> bool:
        """Send no more; what comes due is held. False: it was disabled. Raises `NotFound`."""
        async with self._bus.database.transaction() as session:
            endpoint = await EventEndpoints(session).get(name)
            changed = await EventEndpoints(session).disable(endpoint.id, reason)
            if changed:
                await self._emit(session, "endpoint.disabled", endpoint, reason=reason, held=True)
        return changed

    async def remove(self, name: str) -> int:
        """Remove an endpoint with its rules; returns how many open deliveries went with it. Raises
        `NotFound`.
        """
        async with self._bus.database.transaction() as session:
            endpoint = await EventEndpoints(session).remove(name)
            discarded = await EventDeliveries(session).discard(endpoint.id)
            await self._emit(session, "endpoint.removed", endpoint, discarded=discarded)
        return discarded

    async def rotate(self, name: str, next_secret: str | None) -> None:
        """Sign with a second secret too; without one, end the rotation: the second becomes the only one.

        Raises `InvalidInput`, `NotFound`.
        """
        new = _secret(next_secret, "next_secret")
        async with self._bus.database.transaction() as session:
            endpoint = await EventEndpoints(session).get(name)
            if new is None and endpoint.next_secret is None:
                raise InvalidInput(
                    f"no second secret of {name!r} is there to take over", field="next_secret"
                )
            first = endpoint.secret if new is not None else endpoint.next_secret
            await EventEndpoints(session).rotate(name, first, new)
            await self._emit(session, "endpoint.rotated", endpoint, rotating=new is not None)

    async def add_route(self, pattern: str, target: str, condition: object = None) -> Route:
        """Make a rule to an endpoint, ``discord:CHANNEL`` or ``handler:NAME``. Raises
        `InvalidInput`, `NotFound`.
        """
        checked, wanted = check_pattern(pattern), check_condition(condition)
        async with self._bus.database.transaction() as session:
            endpoints = EventEndpoints(session)
            if target.startswith(("discord:", "handler:")):
                _url(target, "target")
                await endpoints.ensure(check_endpoint(target, target, patterns=()))
            return await endpoints.add_route(checked, wanted, await endpoints.get(target))

    async def routes(self) -> Sequence[Route]:
        """Every rule."""
        async with self._bus.database.transaction(read_only=True) as session:
            return await EventEndpoints(session).routes()

    async def remove_route(self, route_id: int) -> None:
        """Remove a rule. Raises `NotFound`."""
        async with self._bus.database.transaction() as session:
            await EventEndpoints(session).remove_route(route_id)

    async def _emit(self, session: Any, event_type: str, endpoint: Endpoint, **facts: Any) -> None:
        await self._bus.emit(event_type, endpoint.name, facts, session=session)
