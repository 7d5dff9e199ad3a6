"""Deliveries: made by the router, claimed by deliverers, reported in sets. See docs/event-delivery.md."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.driver import driver_in
from atlas.repositories.events.cursors import Cursor

__all__ = ["Delivery", "DeliveryStatus", "EventDeliveries", "Outcome", "Subscription"]

_ROUTE = """
    WITH {page},
    wanted AS (
        SELECT * FROM unnest(CAST(:endpoints AS bigint[]), CAST(:regexes AS text[]),
                             CAST(:conditions AS text[]), CAST(:starts AS timestamptz[]))
            AS subscription (endpoint_id, regex, condition, starts_at)
    ),
    made AS (
        INSERT INTO event_deliveries (event_id, endpoint_id, event_at, due_at)
        SELECT DISTINCT page.id, wanted.endpoint_id, page.created_at, page.created_at
        FROM page JOIN wanted ON page.event_type ~ wanted.regex
            AND page.created_at >= wanted.starts_at
            AND (wanted.condition IS NULL OR page.payload @> CAST(wanted.condition AS jsonb))
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM page) AS scanned, (SELECT coalesce(max(seq), 0) FROM page) AS last_seq,
           (SELECT count(*) FROM made) AS made
    """

#: Most deliveries of one endpoint that one claim takes.
CLAIM_LIMIT = 25

# The limit by the clock is a sub-select, because a volatile function cannot bound an index scan. The number
# of rows is written out: of a parameter the planner expects a tenth of the table, and reads all of it.
_CLAIM = """
    WITH wanted AS (
        SELECT * FROM unnest(CAST($1 AS bigint[]), CAST($2 AS uuid[]))
            AS room (endpoint_id, probe)
    ),
    picked AS MATERIALIZED (
        SELECT due.* FROM wanted
        JOIN event_endpoints AS endpoint ON endpoint.id = wanted.endpoint_id
            AND (endpoint.state = 'active' OR endpoint.probe = wanted.probe)
        CROSS JOIN LATERAL (
            SELECT event_id, endpoint_id, event_at FROM event_deliveries
            WHERE endpoint_id = wanted.endpoint_id AND due_at <= (SELECT clock_timestamp())
            ORDER BY due_at LIMIT {limit}
            FOR UPDATE SKIP LOCKED
        ) AS due
    ),
    claimed AS (
        UPDATE event_deliveries AS delivery
        SET due_at = clock_timestamp() + make_interval(secs => $4), lease = $3,
            attempts = attempts + 1
        FROM picked
        WHERE delivery.event_id = picked.event_id AND delivery.endpoint_id = picked.endpoint_id
          AND delivery.event_at = picked.event_at
        RETURNING delivery.event_id, delivery.endpoint_id, delivery.event_at, delivery.attempts,
                  delivery.message_id
    )
    SELECT claimed.*, event.seq, event.event_type, event.entity_id, event.payload::text AS payload
    FROM claimed LEFT JOIN system_events AS event
        ON event.id = claimed.event_id AND event.created_at = claimed.event_at
    ORDER BY event.seq
    """

_REPORT = """
    WITH report AS (
        SELECT * FROM unnest(
            CAST($1 AS uuid[]), CAST($2 AS bigint[]), CAST($3 AS timestamptz[]),
            CAST($4 AS uuid[]), CAST($5 AS boolean[]), CAST($6 AS float8[]),
            CAST($7 AS boolean[]), CAST($8 AS text[])
        ) AS r (event_id, endpoint_id, event_at, lease, delivered, wait, counted, error)
    )
    UPDATE event_deliveries AS delivery
    SET lease = NULL,
        due_at = clock_timestamp() + make_interval(secs => report.wait),
        delivered_at = CASE WHEN report.delivered THEN clock_timestamp() END,
        attempts = delivery.attempts - CASE WHEN report.counted THEN 0 ELSE 1 END,
        last_error = CASE WHEN report.counted OR report.error IS NOT NULL
                          THEN report.error ELSE delivery.last_error END
    FROM report
    WHERE delivery.event_id = report.event_id AND delivery.endpoint_id = report.endpoint_id
      AND delivery.event_at = report.event_at AND delivery.lease = report.lease
    """


@dataclass(frozen=True, slots=True)
class Subscription:
    """What the router makes deliveries for: events whose type matches ``regex`` and that hold
    ``condition``.
    """

    endpoint_id: int
    regex: str
    condition: Mapping[str, Any] | None
    starts_at: datetime


@dataclass(frozen=True, slots=True)
class Routed:
    """What a pass of the router did: rows read, up to which, deliveries made."""

    scanned: int
    last_seq: int
    made: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed delivery. ``attempts`` includes the one to be made; ``payload`` is JSON text, None with the
    rest of the event where the event is no longer there."""

    event_id: uuid.UUID
    endpoint_id: int
    event_at: datetime
    attempts: int
    message_id: str | None
    seq: int | None
    event_type: str | None
    entity_id: str | None
    payload: str | None
    lease: uuid.UUID


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claimed delivery: delivered, due again after ``wait`` seconds, or (None) given up.

    Not ``counted``: as if it had not been claimed.
    """

    delivery: Delivery
    delivered: bool = False
    wait: float | None = None
    counted: bool = True
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """One event's delivery to one endpoint."""

    endpoint: str
    due_at: datetime | None
    delivered_at: datetime | None
    attempts: int
    last_error: str | None

    @property
    def state(self) -> str:
        """``delivered``, ``waiting`` or ``dead``."""
        if self.delivered_at is not None:
            return "delivered"
        return "waiting" if self.due_at is not None else "dead"


class EventDeliveries:
    """Makes, claims and reports deliveries."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def route(
        self, cursor: Cursor, limit: int, subscriptions: Sequence[Subscription]
    ) -> Routed:
        """Make the deliveries of the cursor's next page."""
        page, parameters = cursor.page(limit)
        rows = await self.session.execute(
            text(_ROUTE.format(page=page)),
            {
                **parameters,
                "endpoints": [one.endpoint_id for one in subscriptions],
                "regexes": [one.regex for one in subscriptions],
                "conditions": [_condition(one) for one in subscriptions],
                "starts": [one.starts_at for one in subscriptions],
            },
        )
        row = rows.one()
        return Routed(row.scanned, row.last_seq, row.made)

    async def claim(
        self,
        room: Mapping[int, int],
        probes: Mapping[int, uuid.UUID],
        lease: uuid.UUID,
        seconds: float,
    ) -> list[Delivery]:
        """Take up to ``room[endpoint]`` due deliveries of each endpoint that is active or whose
        probe is ours.

        No other claim gets them for ``seconds``.
        """
        claimed: list[Delivery] = []
        for limit in sorted({min(want, CLAIM_LIMIT) for want in room.values()}):
            endpoints = [one for one, want in room.items() if min(want, CLAIM_LIMIT) == limit]
            async with driver_in(self.session) as driver:
                rows = await driver.fetch(
                    _CLAIM.format(limit=int(limit)),
                    endpoints,
                    [probes.get(endpoint) for endpoint in endpoints],
                    lease,
                    seconds,
                )
            claimed += [Delivery(*(*row, lease)) for row in rows]
        return claimed

    async def report(self, outcomes: Sequence[Outcome]) -> int:
        """Record outcomes in one statement; those whose lease is another's by now change nothing."""
        if not outcomes:
            return 0
        # in one order, so that two reports of the same rows cannot wait for each other
        outcomes = sorted(
            outcomes, key=lambda one: (one.delivery.event_id, one.delivery.endpoint_id)
        )
        deliveries = [one.delivery for one in outcomes]
        async with driver_in(self.session) as driver:
            status: str = await driver.execute(
                _REPORT,
                [one.event_id for one in deliveries],
                [one.endpoint_id for one in deliveries],
                [one.event_at for one in deliveries],
                [one.lease for one in deliveries],
                [one.delivered for one in outcomes],
                [one.wait for one in outcomes],
                [one.counted for one in outcomes],
                [one.error for one in outcomes],
            )
        return int(status.rpartition(" ")[2])

    async def make_due(self, endpoint_id: int) -> int:
        """What waits for the endpoint is due now, except what somebody has claimed."""
        result = await self.session.execute(
            text(
                "UPDATE event_deliveries SET due_at = event_at "
                "WHERE endpoint_id = :id AND due_at > clock_timestamp() AND lease IS NULL"
            ),
            {"id": endpoint_id},
        )
        return int(getattr(result, "rowcount", 0))

    async def replay(
        self,
        endpoint_ids: Sequence[int],
        *,
        event_ids: Sequence[uuid.UUID] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        dead_only: bool = False,
        regex: str | None = None,
        subscriptions: Sequence[Subscription] | None = None,
    ) -> int:
        """Make events due again at endpoints, delivered or not; returns how many deliveries.

        Without ``dead_only`` also where there was none, of what the endpoint's ``subscriptions``
        take, whenever they were made (None: of everything). What is open stays as it is.
        """
        where = (
            "(CAST(:ids AS uuid[]) IS NULL OR event.id = ANY(:ids)) "
            "AND (CAST(:since AS timestamptz) IS NULL OR event.created_at >= :since) "
            "AND (CAST(:until AS timestamptz) IS NULL OR event.created_at < :until) "
            "AND (CAST(:regex AS text) IS NULL OR event.event_type ~ :regex)"
        )
        values = {
            "endpoints": list(endpoint_ids),
            "ids": None if event_ids is None else list(event_ids),
            "since": since,
            "until": until,
            "regex": regex,
        }
        again = (
            "due_at = clock_timestamp(), delivered_at = NULL, attempts = 0, lease = NULL, "
            "last_error = NULL"
        )
        if dead_only:
            statement = (
                f"UPDATE event_deliveries AS delivery SET {again} FROM system_events AS event "
                "WHERE event.id = delivery.event_id AND event.created_at = delivery.event_at "
                "AND delivery.endpoint_id = ANY(CAST(:endpoints AS bigint[])) "
                f"AND due_at IS NULL AND delivered_at IS NULL AND {where}"
            )
        else:
            statement = (
                "INSERT INTO event_deliveries AS delivery (event_id, endpoint_id, event_at, due_at) "
                "SELECT event.id, endpoint, event.created_at, clock_timestamp() "
                "FROM system_events AS event, unnest(CAST(:endpoints AS bigint[])) AS endpoint "
                f"WHERE {where} AND (CAST(:subscribers AS bigint[]) IS NULL OR EXISTS (SELECT FROM unnest("
                "CAST(:subscribers AS bigint[]), CAST(:regexes AS text[]), CAST(:conditions AS text[])) "
                "AS wanted (endpoint_id, regex, condition) WHERE wanted.endpoint_id = endpoint "
                "AND event.event_type ~ wanted.regex "
                "AND (condition IS NULL OR event.payload @> CAST(condition AS jsonb)))) "
                f"ON CONFLICT (event_id, endpoint_id, event_at) DO UPDATE SET {again} "
                "WHERE delivery.due_at IS NULL"
            )
            values |= {
                "subscribers": _each(subscriptions, lambda one: one.endpoint_id),
                "regexes": _each(subscriptions, lambda one: one.regex),
                "conditions": _each(subscriptions, _condition),
            }
        result = await self.session.execute(text(statement), values)
        return int(getattr(result, "rowcount", 0))

    async def of_events(
        self, event_ids: Sequence[uuid.UUID]
    ) -> dict[uuid.UUID, list[DeliveryStatus]]:
        """The deliveries of each event, by endpoint."""
        rows = await self.session.execute(
            text(
                "SELECT event_id, coalesce(name, 'removed') AS endpoint, due_at, delivered_at, attempts, "
                "last_error FROM event_deliveries LEFT JOIN event_endpoints ON id = endpoint_id "
                "WHERE event_id = ANY(CAST(:ids AS uuid[])) ORDER BY endpoint"
            ),
            {"ids": list(event_ids)},
        )
        found: dict[uuid.UUID, list[DeliveryStatus]] = {}
        for row in rows:
            found.setdefault(row.event_id, []).append(
                DeliveryStatus(
                    row.endpoint, row.due_at, row.delivered_at, row.attempts, row.last_error
                )
            )
        return found

    async def counts(self) -> dict[int, tuple[int, int, int]]:
        """By endpoint: deliveries that wait, that were made, and dead letters, of the days that are kept."""
        rows = await self.session.execute(
            text(
                "SELECT endpoint_id, count(due_at) AS waiting, count(delivered_at) AS delivered, "
                "count(*) FILTER (WHERE due_at IS NULL AND delivered_at IS NULL) AS dead "
                "FROM event_deliveries GROUP BY endpoint_id"
            )
        )
        return {row.endpoint_id: (row.waiting, row.delivered, row.dead) for row in rows}

    async def next_due(self, endpoint_ids: Sequence[int]) -> float | None:
        """In how many seconds the first of these endpoints' deliveries is due; None: nothing waits."""
        value = await self.session.scalar(
            text(
                "SELECT extract(epoch FROM min(first.due_at) - clock_timestamp()) "
                "FROM unnest(CAST(:ids AS bigint[])) AS endpoint (id) CROSS JOIN LATERAL ("
                "SELECT due_at FROM event_deliveries WHERE endpoint_id = endpoint.id "
                "AND due_at IS NOT NULL ORDER BY due_at LIMIT 1) AS first"
            ),
            {"ids": list(endpoint_ids)},
        )
        return None if value is None else float(value)

    async def discard(self, endpoint_id: int) -> int:
        """Delete the open deliveries of an endpoint that is removed."""
        result = await self.session.execute(
            text("DELETE FROM event_deliveries WHERE endpoint_id = :id AND due_at IS NOT NULL"),
            {"id": endpoint_id},
        )
        return int(getattr(result, "rowcount", 0))


def _condition(subscription: Subscription) -> str | None:
    condition = subscription.condition
    return None if condition is None else json.dumps(condition, ensure_ascii=False)


def _each(
    subscriptions: Sequence[Subscription] | None, fact: Callable[[Subscription], Any]
) -> list[Any] | None:
    return None if subscriptions is None else [fact(one) for one in subscriptions]
