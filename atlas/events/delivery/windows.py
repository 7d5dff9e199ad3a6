"""How many requests one process has under way to one endpoint."""

from __future__ import annotations

import time
import uuid
from collections import deque
from dataclasses import dataclass, field

from atlas.events.delivery.senders import Sender
from atlas.repositories.events.deliveries import CLAIM_LIMIT, Delivery
from atlas.repositories.events.endpoints import Endpoint

__all__ = ["Attempt", "Window"]

#: A request that has taken so long, in seconds, may be overtaken.
SLOW = 0.1
#: So many times ``max_in_flight`` may be under way where most of them are slow.
OVERTAKEN = 10
#: Deliveries are claimed ahead, so many times the window.
AHEAD = 5


@dataclass(eq=False, slots=True)
class Attempt:
    """One request under way. ``probe``: the lease of the pause that it is to end."""

    delivery: Delivery
    started: float
    successes: int
    probe: uuid.UUID | None = None
    overtaken: bool = False


@dataclass(eq=False, slots=True)
class Window:
    """What this process knows of an endpoint, and has under way.

    The window opens from one request at a time, doubling with each success. A request that is slow
    while as many
    others as the window is wide were answered does not count: a few slow answers must not hold the others.
    """

    endpoint: Endpoint
    sender: Sender | None
    width: int
    #: Claimed and not yet sent, with the moment until which each may be.
    ready: deque[tuple[Delivery, float]] = field(default_factory=deque)
    #: Under way, the oldest first.
    attempts: dict[Attempt, None] = field(default_factory=dict)
    failures: int = 0
    successes: int = 0
    typical: float = 0.0
    #: Nothing is sent: a pause or an end was decided here, and the table may not say so yet.
    closed: bool = False
    counted: int = 0
    #: Sent, and the outcome not yet in the table: what a kill would repeat, with those under way.
    unrecorded: set[uuid.UUID] = field(default_factory=set)

    def want(self) -> int:
        """How many more deliveries to claim."""
        if self.closed or self.sender is None or self.endpoint.state != "active":
            return 0
        wanted = self.width * AHEAD
        # a claim for one delivery costs as much as for many
        return CLAIM_LIMIT if len(self.ready) <= wanted // 2 else 0

    def has_room(self) -> bool:
        """Whether another request may be sent now."""
        if self.counted >= self.width:
            self._overtake()
        most = self.endpoint.max_in_flight
        limit = most * OVERTAKEN if most > 1 else 1
        return (
            self.counted < self.width
            and len(self.attempts) < limit
            and self.counted + len(self.unrecorded) < 2 * most - 1
        )

    def begin(self, delivery: Delivery, probe: uuid.UUID | None = None) -> Attempt:
        """A request is sent."""
        attempt = Attempt(delivery, time.monotonic(), self.successes, probe)
        self.attempts[attempt] = None
        self.counted += 1
        return attempt

    def end(self, attempt: Attempt, delivered: bool) -> None:
        """A request is over."""
        del self.attempts[attempt]
        self.unrecorded.add(attempt.delivery.event_id)
        if not attempt.overtaken:
            self.counted -= 1
        if delivered:
            self.failures = 0
            self.successes += 1
            self.width = min(self.width * 2, self.endpoint.max_in_flight)
            taken = time.monotonic() - attempt.started
            if not attempt.overtaken:
                self.typical = taken if self.typical == 0 else 0.9 * self.typical + 0.1 * taken

    def reopen(self, endpoint: Endpoint) -> None:
        """After a pause: one request at a time at first."""
        self.endpoint, self.closed, self.failures, self.width = endpoint, False, 0, 1

    def _overtake(self) -> None:
        if self.endpoint.max_in_flight == 1:
            return
        limit = time.monotonic() - max(SLOW, 3 * self.typical)
        for attempt in self.attempts:
            if attempt.started > limit:
                break
            if not attempt.overtaken and self.successes - attempt.successes >= self.width:
                attempt.overtaken = True
                self.counted -= 1
