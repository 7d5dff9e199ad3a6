"""Which endpoints an event goes to: the router's passes, and why for one event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from atlas.events.patterns import contains, to_regex
from atlas.repositories.events.cursors import EventCursors, Page
from atlas.repositories.events.deliveries import EventDeliveries, Subscription
from atlas.repositories.events.endpoints import Endpoint, EventEndpoints, Route
from atlas.repositories.events.log import RecordedEvent

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["ROUTER", "Explanation", "explain", "route_page", "subscriptions_of"]

#: The router's cursor.
ROUTER = "atlas.router"
#: Events that one transaction routes.
PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a rule says of one event. ``rule``: the endpoint's own subscription, or the number of a route."""

    rule: str
    target: str
    matches: bool
    why: str


async def route_page(database: Database, limit: int = PAGE) -> int | None:
    """Make the deliveries of up to ``limit`` events; returns how many events were read.

    None: another process is at it. One transaction: it is done once, or not at all.
    """
    async with database.autocommit() as session:
        cursors = EventCursors(session)
        if not await cursors.has_waiting(ROUTER):
            if await cursors.read(ROUTER) is not None:
                return 0
            await cursors.ensure(ROUTER)
    async with database.transaction(isolation="READ COMMITTED") as session:
        cursors = EventCursors(session)
        cursor = await cursors.read(ROUTER)
        if cursor is None or not await cursors.lock(cursor):
            return None
        endpoints = EventEndpoints(session)
        subscriptions = subscriptions_of(await endpoints.all(), await endpoints.routes())
        routed = await EventDeliveries(session).route(cursor, limit, subscriptions)
        await cursors.advance(cursor, Page([], routed.scanned, routed.last_seq), limit)
    return routed.scanned


def subscriptions_of(endpoints: list[Endpoint], routes: list[Route]) -> list[Subscription]:
    """What each endpoint gets: by its own patterns, and by rules."""
    own = [
        Subscription(one.id, to_regex(one.patterns), one.condition, one.created_at)
        for one in endpoints
        if one.patterns
    ]
    rules = [
        Subscription(one.endpoint_id, to_regex([one.pattern]), one.condition, one.created_at)
        for one in routes
    ]
    return own + rules


def explain(
    event: RecordedEvent, endpoints: list[Endpoint], routes: list[Route]
) -> list[Explanation]:
    """Each rule, whether it takes the event, and why."""
    states = {one.id: one.state for one in endpoints}
    found = []
    for one in endpoints:
        if one.patterns:
            subscription = Subscription(
                one.id, to_regex(one.patterns), one.condition, one.created_at
            )
            found.append(
                _explanation(
                    "endpoint", one.name, ", ".join(one.patterns), subscription, event, states
                )
            )
    for route in routes:
        subscription = Subscription(
            route.endpoint_id, to_regex([route.pattern]), route.condition, route.created_at
        )
        found.append(
            _explanation(
                f"route {route.id}", route.target, route.pattern, subscription, event, states
            )
        )
    return found


def _explanation(
    rule: str,
    target: str,
    pattern: str,
    subscription: Subscription,
    event: RecordedEvent,
    states: Mapping[int, str],
) -> Explanation:
    if not re.match(subscription.regex, event.event_type):
        return Explanation(rule, target, False, f"{event.event_type} is not of {pattern}")
    if subscription.condition is not None and not contains(event.payload, subscription.condition):
        return Explanation(rule, target, False, "the payload does not contain the condition")
    if event.created_at < subscription.starts_at:
        return Explanation(rule, target, False, "the rule was made after the event")
    state = states.get(subscription.endpoint_id, "removed")
    held = "" if state == "active" else f"; the endpoint is {state}, its deliveries are held"
    return Explanation(rule, target, True, f"{event.event_type} is of {pattern}{held}")
