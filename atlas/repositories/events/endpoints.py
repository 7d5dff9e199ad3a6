"""Endpoints and routing rules, and the states of an endpoint. See docs/event-delivery.md."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.errors import Conflict, DatabaseError, NotFound
from atlas.models.events import EventEndpoint, EventRoute

__all__ = ["Endpoint", "EventEndpoints", "NewEndpoint", "Route"]

State = Literal["active", "paused", "disabled"]

_TABLE = EventEndpoint.metadata.tables[EventEndpoint.__tablename__]
_ROUTES = EventRoute.metadata.tables[EventRoute.__tablename__]

#: The first pause in seconds, and the longest; each one that a failed probe follows is twice as long.
FIRST_PAUSE, LONGEST_PAUSE = 5, 300
#: Shorter by chance, never longer: who is back gets all that waits within `LONGEST_PAUSE`.
_BY_CHANCE = "(0.95 - random() * 0.15)"
#: An endpoint that has failed for so long is disabled.
PATIENCE = "interval '5 days'"


@dataclass(frozen=True, slots=True)
class NewEndpoint:
    """An endpoint to be made; its ``url`` and secrets are not shown."""

    name: str
    url: str = field(repr=False)
    secret: str | None = field(default=None, repr=False)
    next_secret: str | None = field(default=None, repr=False)
    patterns: tuple[str, ...] = ("*",)
    condition: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_in_flight: int = 10


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as it is."""

    id: int
    name: str
    url: str = field(repr=False)
    secret: str | None = field(repr=False)
    next_secret: str | None = field(repr=False)
    patterns: list[str]
    condition: dict[str, Any] | None
    headers: dict[str, str] = field(repr=False)
    max_in_flight: int
    state: State
    reason: str | None
    paused_until: datetime | None
    pause_seconds: int
    failing_since: datetime | None
    probe: uuid.UUID | None
    changed_at: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Route:
    """A rule of `event_routes`."""

    id: int
    pattern: str
    condition: dict[str, Any] | None
    endpoint_id: int
    created_at: datetime
    target: str


class EventEndpoints:
    """Makes, lists and changes endpoints and rules."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, new: NewEndpoint) -> Endpoint:
        """Make an endpoint. Raises `Conflict` where the name is taken."""
        try:
            row = await self.session.execute(insert(_TABLE).values(_values(new)).returning(_TABLE))
        except DatabaseError as error:
            if error.constraint == "uq_event_endpoints_name":
                raise Conflict(
                    f"there is an endpoint {new.name!r} already", hint="remove it, or choose a name"
                ) from error
            raise
        return Endpoint(**row.mappings().one())

    async def ensure(self, new: NewEndpoint) -> None:
        """Make the endpoint, or give the one of that name these patterns. Writes only what differs."""
        values = _values(new)
        statement = upsert(_TABLE).values(values)
        await self.session.execute(
            statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"patterns": statement.excluded.patterns},
                where=_TABLE.c.patterns != statement.excluded.patterns,
            )
        )

    async def all(self) -> list[Endpoint]:
        """Every endpoint, by id."""
        rows = await self.session.execute(select(_TABLE).order_by(_TABLE.c.id))
        return [Endpoint(**row) for row in rows.mappings()]

    async def get(self, name: str) -> Endpoint:
        """The endpoint of that name. Raises `NotFound`."""
        rows = await self.session.execute(select(_TABLE).where(_TABLE.c.name == name))
        row = rows.mappings().one_or_none()
        if row is None:
            raise NotFound(
                f"there is no endpoint {name!r}", hint="see `atlas events endpoints list`"
            )
        return Endpoint(**row)

    async def remove(self, name: str) -> Endpoint:
        """Remove the endpoint and the rules that name it. Raises `NotFound`."""
        endpoint = await self.get(name)
        await self.session.execute(delete(_TABLE).where(_TABLE.c.id == endpoint.id))
        return endpoint

    async def rotate(self, name: str, secret: str | None, next_secret: str | None) -> None:
        """Replace the secrets."""
        await self.session.execute(
            update(_TABLE)
            .where(_TABLE.c.name == name)
            .values(secret=secret, next_secret=next_secret)
        )

    async def add_route(
        self, pattern: str, condition: Mapping[str, Any] | None, endpoint: Endpoint
    ) -> Route:
        """Make a rule."""
        row = await self.session.execute(
            insert(_ROUTES)
            .values(
                pattern=pattern,
                condition=dict(condition) if condition is not None else None,
                endpoint_id=endpoint.id,
            )
            .returning(_ROUTES)
        )
        return Route(**row.mappings().one(), target=endpoint.name)

    async def routes(self) -> list[Route]:
        """Every rule, by id."""
        rows = await self.session.execute(
            select(_ROUTES, _TABLE.c.name.label("target"))
            .join(_TABLE, _TABLE.c.id == _ROUTES.c.endpoint_id)
            .order_by(_ROUTES.c.id)
        )
        return [Route(**row) for row in rows.mappings()]

    async def remove_route(self, route_id: int) -> None:
        """Remove a rule. Raises `NotFound`."""
        found = await self.session.scalars(
            delete(_ROUTES).where(_ROUTES.c.id == route_id).returning(_ROUTES.c.id)
        )
        if found.one_or_none() is None:
            raise NotFound(f"there is no rule {route_id}", hint="see `atlas events route list`")

    async def pause(self, endpoint_id: int, seconds: float | None, reason: str) -> bool:
        """Pause an active endpoint, for ``seconds`` or the first pause. False: it was not active."""
        return await self._change(
            "state = 'paused', pause_seconds = CAST(:first AS integer), failing_since = clock_timestamp(), "
            "paused_until = clock_timestamp() + make_interval(secs => "
            f"coalesce(CAST(:seconds AS float8), CAST(:first AS integer) * {_BY_CHANCE}))",
            "state = 'active'",
            id=endpoint_id,
            seconds=seconds,
            reason=reason,
            first=FIRST_PAUSE,
        )

    async def take_probe(self, endpoint_id: int, probe: uuid.UUID, seconds: float) -> bool:
        """Take the one probe of a pause that is over, for ``seconds``. False: another has it."""
        found = await self.session.scalars(
            text(
                "UPDATE event_endpoints SET probe = :probe, "
                "paused_until = clock_timestamp() + make_interval(secs => :seconds) "
                "WHERE id = :id AND state = 'paused' AND paused_until <= clock_timestamp() "
                "RETURNING id"
            ),
            {"id": endpoint_id, "probe": probe, "seconds": seconds},
        )
        return found.one_or_none() is not None

    async def probe_failed(
        self, endpoint_id: int, probe: uuid.UUID, seconds: float | None, reason: str
    ) -> State | None:
        """Pause for twice as long, or ``seconds``; after five days disable. The new state, None if
        not ours.
        """
        found = await self.session.scalars(
            text(f"""
                UPDATE event_endpoints SET probe = NULL,
                    reason = CASE WHEN failing_since < clock_timestamp() - {PATIENCE}
                                  THEN 'failed for five days: ' ELSE '' END || CAST(:reason AS text),
                    state = CASE WHEN failing_since < clock_timestamp() - {PATIENCE}
                                 THEN 'disabled' ELSE 'paused' END,
                    pause_seconds = least(pause_seconds * 2, CAST(:longest AS integer)),
                    changed_at = clock_timestamp(),
                    paused_until = clock_timestamp() + make_interval(secs => coalesce(
                        CAST(:seconds AS float8),
                        least(pause_seconds * 2, CAST(:longest AS integer)) * {_BY_CHANCE}))
                WHERE id = :id AND state = 'paused' AND probe = :probe RETURNING state
                """),
            {
                "id": endpoint_id,
                "probe": probe,
                "seconds": seconds,
                "reason": reason,
                "longest": LONGEST_PAUSE,
            },
        )
        state: State | None = found.one_or_none()
        return state

    async def end_probe(self, endpoint_id: int, probe: uuid.UUID) -> None:
        """Give back a probe for which there was nothing to send."""
        await self.session.execute(
            text(
                "UPDATE event_endpoints SET probe = NULL, paused_until = clock_timestamp() "
                "WHERE id = :id AND probe = :probe"
            ),
            {"id": endpoint_id, "probe": probe},
        )

    async def resume(self, endpoint_id: int) -> int | None:
        """Make a paused endpoint active; returns the length of its last pause, None if it was not paused."""
        found = await self.session.scalars(
            text(
                "UPDATE event_endpoints AS new SET state = 'active', reason = NULL, probe = NULL, "
                "paused_until = NULL, pause_seconds = 0, failing_since = NULL, "
                "changed_at = clock_timestamp() "
                "FROM (SELECT id, pause_seconds FROM event_endpoints WHERE id = :id FOR UPDATE) AS old "
                "WHERE new.id = old.id AND new.state = 'paused' RETURNING old.pause_seconds"
            ),
            {"id": endpoint_id},
        )
        seconds: int | None = found.one_or_none()
        return seconds

    async def disable(self, endpoint_id: int, reason: str) -> bool:
        """Stop sending; what is and comes due is held. False: it was disabled before."""
        return await self._change(
            "state = 'disabled', probe = NULL, paused_until = NULL",
            "state <> 'disabled'",
            id=endpoint_id,
            reason=reason,
        )

    async def enable(self, endpoint_id: int) -> bool:
        """Send again. False: it was active before."""
        return await self._change(
            "state = 'active', probe = NULL, paused_until = NULL, pause_seconds = 0, "
            "failing_since = NULL",
            "state <> 'active'",
            id=endpoint_id,
            reason=None,
        )

    async def _change(self, sets: str, where: str, **values: Any) -> bool:
        found = await self.session.scalars(
            text(
                f"UPDATE event_endpoints SET {sets}, reason = :reason, changed_at = clock_timestamp() "
                f"WHERE id = :id AND {where} RETURNING id"
            ),
            values,
        )
        return found.one_or_none() is not None


def _values(new: NewEndpoint) -> dict[str, Any]:
    return {
        "name": new.name,
        "url": new.url,
        "secret": new.secret,
        "next_secret": new.next_secret,
        "patterns": list(new.patterns),
        "condition": dict(new.condition) if new.condition is not None else None,
        "headers": dict(new.headers),
        "max_in_flight": new.max_in_flight,
        "created_at": func.clock_timestamp(),
    }
