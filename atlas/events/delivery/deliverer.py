"""Delivery: claims what is due, sends it within each endpoint's window, records outcomes in sets.

The states of an endpoint, and what a crash leaves behind: docs/event-delivery.md. Each outcome is caught by
itself; nothing that one endpoint does holds up another, nor the router.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from atlas import webhook_client
from atlas.db.database import KeptSession
from atlas.errors import AtlasError, ConfigurationError, Unavailable
from atlas.events.delivery.router import PAGE, route_page
from atlas.events.delivery.senders import Notify, TargetHandler, Verdict, describe, make_sender
from atlas.events.delivery.states import LONGEST_PAUSE, POLL, EndpointStates
from atlas.events.delivery.windows import Attempt, Window
from atlas.logging import get_logger
from atlas.notifications.jobs import note
from atlas.redaction import redact
from atlas.repositories.events.deliveries import Delivery, EventDeliveries, Outcome
from atlas.repositories.events.endpoints import Endpoint, EventEndpoints

if TYPE_CHECKING:
    from atlas.events.bus import EventBus

__all__ = ["SCHEDULE", "Deliverer"]

log = get_logger(__name__)

#: Seconds before each attempt, the first included (Standard Webhooks 1.0, "Retry schedule").
SCHEDULE = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Seconds that one attempt may take; the specification asks for 15 to 30.
TIMEOUT = 15.0
#: Seconds between a claim and the last moment at which a delivery of it may be sent.
FRESH = 8.0
#: Characters of an error that are kept with a delivery.
ERROR_LENGTH = 500
#: Attempts after which a delivery that ends the process each time is given up.
UNREPORTED = 2 * len(SCHEDULE)
#: Failures in a row that pause an endpoint.
IN_A_ROW = 5
#: Seconds between looks at the endpoints.
REFRESH = 0.5
#: Seconds for which outcomes wait for others, to be recorded with them.
GATHER = 0.05
#: Outcomes that wait for no others.
SET = 50


class Deliverer:
    """Routes and delivers. Any number of processes may, each with one of these for an event loop."""

    def __init__(
        self,
        bus: EventBus,
        *,
        notify: Notify | None = None,
        handlers: Mapping[str, TargetHandler] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.bus = bus
        self.database = bus.database
        self.notify = notify
        self.handlers = handlers or {}
        self.timeout = timeout
        self.delivered = 0
        self._session = KeptSession(bus.database)
        self._windows: dict[int, Window] = {}
        self._outcomes: list[Outcome] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._states = EndpointStates(bus, notify, self._is_ending, self._look_again)
        self._wake = asyncio.Event()
        self._stopping = False
        self._refreshed = -REFRESH
        self._complained: set[tuple[int, str]] = set()
        self._left: int | None = None
        self._once = False

    def stop(self) -> None:
        """Claim no more; `run` ends once what is in flight is recorded."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Route and deliver until `stop`; outages of PostgreSQL are waited for."""
        async with self._client() as client:
            router = asyncio.create_task(self._route())
            pause = POLL
            try:
                while not self._stopping:
                    self._wake.clear()
                    try:
                        claimed = await self._turn(client)
                        pause = POLL
                    except Exception as error:
                        log.warning("event_delivery_waits", error=describe(error))
                        _note(error)
                        claimed, pause = 0, min(2 * pause, LONGEST_PAUSE)
                    if not claimed:
                        await self._sleep(pause)
            finally:
                router.cancel()
                await self._finish()
                with contextlib.suppress(asyncio.CancelledError):
                    await router

    async def run_once(self, limit: int | None = None) -> int:
        """Route what is there and deliver what is due, up to ``limit``; returns how many were delivered.

        Raises `DatabaseError`; what was sent but could not be recorded is sent again after its lease.
        """
        self._once, self._left = True, limit
        async with self._client() as client:
            try:
                while await route_page(self.database) == PAGE:
                    pass
                while not self._stopping:
                    self._wake.clear()
                    claimed = await self._turn(client)
                    busy = self._tasks or self._states.pending or self._outcomes
                    if not claimed and not busy:
                        break
                    if not claimed:
                        await self._sleep(POLL)
            finally:
                await self._finish()
        return self.delivered

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[webhook_client.Client]:
        settings = self.bus.settings
        allow = settings.event_bus_allow_private or settings.throwaway
        async with webhook_client.client(timeout=self.timeout, allow_private=allow) as client:
            yield client

    async def _route(self) -> None:
        pause = POLL
        while True:
            try:
                routed = await route_page(self.database)
                pause = POLL
            except Exception as error:
                log.warning("event_routing_waits", error=describe(error))
                _note(error)
                routed, pause = 0, min(2 * pause, LONGEST_PAUSE)
            if routed:
                self._wake.set()
            if routed != PAGE:
                await asyncio.sleep(pause)

    async def _turn(self, client: webhook_client.Client) -> int:
        """Record, look at the endpoints, claim, send. Returns how many deliveries were claimed."""
        await self._record()
        if time.monotonic() - self._refreshed >= REFRESH:
            await self._refresh(client)
        room = {key: want for key, window in self._windows.items() if (want := window.want()) > 0}
        if self._left is not None:
            room = dict(zip(room, _shares(list(room.values()), self._left), strict=True))
            room = {key: most for key, most in room.items() if most}
        claimed = await self._claim(room, {}) if room else []
        for delivery in claimed:
            deadline = time.monotonic() + FRESH
            self._windows[delivery.endpoint_id].ready.append((delivery, deadline))
        if self._left is not None:
            self._left -= len(claimed)
        for window in self._windows.values():
            self._send(window)
        return len(claimed)

    async def _claim(
        self, room: Mapping[int, int], probes: Mapping[int, uuid.UUID]
    ) -> list[Delivery]:
        async with self._session.use() as session:
            return await EventDeliveries(session).claim(
                room, probes, uuid.uuid4(), self.timeout + FRESH + 2
            )

    async def _record(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if not outcomes:
            return
        try:
            async with self._session.use() as session:
                await EventDeliveries(session).report(outcomes)
        except BaseException:
            self._outcomes = outcomes + self._outcomes  # for the next time
            raise
        for outcome in outcomes:
            if (window := self._windows.get(outcome.delivery.endpoint_id)) is not None:
                window.unrecorded.discard(outcome.delivery.event_id)

    async def _refresh(self, client: webhook_client.Client) -> None:
        await self._session.release()  # others wait for a connection, too
        async with self._session.use() as session:
            endpoints = await EventEndpoints(session).all()
        self._refreshed = time.monotonic()
        if self._states.pending:
            return  # the table is about to say what was decided here
        for endpoint in endpoints:
            window = self._windows.get(endpoint.id)
            if window is None:
                window = self._windows[endpoint.id] = Window(endpoint, None, endpoint.max_in_flight)
                if endpoint.state != "active":
                    window.closed = True
            elif endpoint.state == "active" and window.closed:
                window.reopen(endpoint)
            elif endpoint.state != "active" and not window.closed:
                self._close(window)
            window.endpoint = endpoint
            window.sender = self._sender(endpoint, client)
            if endpoint.state == "paused" and window.sender is not None and not window.attempts:
                await self._probe(window)
        for gone in self._windows.keys() - {endpoint.id for endpoint in endpoints}:
            self._close(self._windows[gone])
            del self._windows[gone]

    def _sender(self, endpoint: Endpoint, client: webhook_client.Client) -> Any:
        try:
            return make_sender(
                endpoint, self.bus.settings, client, self.notify, self.handlers, self.timeout
            )
        except (ConfigurationError, ValueError) as error:
            if (endpoint.id, str(error)) not in self._complained:
                self._complained.add((endpoint.id, str(error)))
                log.error("event_endpoint_unusable", endpoint=endpoint.name, error=describe(error))
            return None

    async def _probe(self, window: Window) -> None:
        """Where the pause is over and something waits, try one delivery."""
        endpoint, probe = window.endpoint, uuid.uuid4()
        async with self.database.autocommit() as session:
            due = await EventDeliveries(session).next_due([endpoint.id])
            if due is None or due > 0 or self._left == 0:
                return
            taken = await EventEndpoints(session).take_probe(
                endpoint.id, probe, self.timeout + FRESH + 2
            )
        if not taken:
            return
        claimed = await self._claim({endpoint.id: 1}, {endpoint.id: probe})
        for delivery in claimed:
            self._start(window, window.begin(delivery, probe))
        if not claimed:
            async with self.database.autocommit() as session:
                await EventEndpoints(session).end_probe(endpoint.id, probe)

    def _send(self, window: Window) -> None:
        while (attempt := self._next(window)) is not None:
            self._start(window, attempt)

    def _next(self, window: Window) -> Attempt | None:
        """The next attempt, where the window has room for one and something is ready."""
        while window.ready and not window.closed and window.has_room():
            delivery, deadline = window.ready.popleft()
            if time.monotonic() > deadline:
                self._release(delivery)
            elif delivery.payload is None:
                error = "the event is no longer kept"
                self._outcomes.append(Outcome(delivery, error=error))
            elif delivery.attempts > UNREPORTED:
                error = "attempts were begun again and again, and never reported"
                self._outcomes.append(Outcome(delivery, error=error))
            else:
                return window.begin(delivery)
        return None

    def _start(self, window: Window, attempt: Attempt) -> None:
        task = asyncio.create_task(self._attempt(window, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, window: Window, first: Attempt) -> None:
        """Make one attempt after the other, as long as there is room: each as a task costs more."""
        attempt: Attempt | None = first
        while attempt is not None:
            try:
                assert window.sender is not None
                verdict = await window.sender.send(attempt.delivery)
            except Exception as error:  # never another delivery's trouble
                verdict = Verdict(error=f"cannot be sent: {type(error).__name__}", pause=True)
                _note(error)
            window.end(attempt, verdict.delivered)
            self._judge(window, attempt, verdict)
            attempt = self._next(window)
            self._send(window)
            if self._is_set(window):
                self._wake.set()

    def _is_set(self, window: Window) -> bool:
        """Whether to record now: what is recorded together costs as much as one."""
        return (
            not window.attempts
            or len(window.unrecorded) > window.endpoint.max_in_flight // 2
            or len(self._outcomes) >= SET
        )

    def _judge(self, window: Window, attempt: Attempt, verdict: Verdict) -> None:
        """What the verdict means for this delivery and for the endpoint."""
        delivery, probe = attempt.delivery, attempt.probe
        if verdict.delivered:
            self.delivered += 1
            self._outcomes.append(Outcome(delivery, delivered=True))
            if probe is not None:
                self._states.resume(window.endpoint)
            return
        # a handler's own words may hold anything
        error = redact(verdict.error or "failed", ERROR_LENGTH)
        again = Outcome(delivery, wait=0.0, counted=False, error=error)
        if verdict.gone:
            self._outcomes.append(again)
            self._close(window)
            self._states.disable(window.endpoint, "it answered 410")
        elif probe is not None:
            self._outcomes.append(again)
            self._states.probe_failed(window.endpoint, probe, verdict, error)
        else:
            self._outcomes.append(self._retry(delivery, error, at_once=verdict.pause))
            window.failures += 1
            if not window.closed and (verdict.pause or window.failures >= IN_A_ROW):
                self._close(window)
                self._states.pause(window.endpoint, verdict.retry_after, error)

    def _retry(self, delivery: Delivery, error: str, *, at_once: bool) -> Outcome:
        """The delivery's next attempt, or its end. An unwell endpoint is the pause's business: due
        at once.
        """
        attempts = delivery.attempts
        given_up = attempts >= len(SCHEDULE)
        wait = 0.0 if at_once and attempts == 1 else float(SCHEDULE[min(attempts, 9)])
        log.warning(
            "event_delivery_failed",
            event_id=str(delivery.event_id),
            event_type=delivery.event_type,
            attempt=attempts,
            error=error,
            given_up=given_up,
        )
        return Outcome(delivery, wait=None if given_up else wait, error=error)

    def _close(self, window: Window) -> None:
        """Send no more; what was claimed is given back uncounted."""
        window.closed = True
        while window.ready:
            self._release(window.ready.popleft()[0])

    def _release(self, delivery: Delivery) -> None:
        self._outcomes.append(Outcome(delivery, wait=0.0, counted=False))

    def _is_ending(self) -> bool:
        return self._stopping or self._once

    def _look_again(self) -> None:
        self._refreshed = -REFRESH
        self._wake.set()

    async def _sleep(self, seconds: float) -> None:
        if not self._tasks:
            await self._session.release()
        if self._outcomes:
            seconds = GATHER
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _finish(self) -> None:
        """Give back what was not sent, wait for what is in flight, record all of it."""
        for window in self._windows.values():
            self._close(window)
        self._stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._states.finish()
        with contextlib.suppress(AtlasError, OSError):  # its leases run out
            await self._record()
        await self._session.release()


def _note(error: Exception) -> None:
    """Track what was not foreseen; outages of the database are waited for."""
    if not isinstance(error, Unavailable | OSError):
        note(error, "deliverer")


def _shares(wants: list[int], left: int) -> list[int]:
    """``wants``, cut so that they are not more than ``left`` together."""
    shares = []
    for want in wants:
        shares.append(min(want, left))
        left -= shares[-1]
    return shares
