"""Changes of an endpoint's state: written however long the database takes, each with its event."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from atlas.errors import AtlasError
from atlas.events.delivery.senders import Notify, Verdict, describe
from atlas.logging import get_logger
from atlas.repositories.events.deliveries import EventDeliveries
from atlas.repositories.events.endpoints import FIRST_PAUSE, Endpoint, EventEndpoints
from atlas.types import AlertChannel

if TYPE_CHECKING:
    from atlas.events.bus import EventBus

__all__ = ["LONGEST_PAUSE", "POLL", "EndpointStates"]

log = get_logger(__name__)

#: Seconds between looks at the log and at what is due.
POLL = 0.2
#: Longest pause after a failure of the database, in seconds.
LONGEST_PAUSE = 5.0


class EndpointStates:
    """What a deliverer decides of its endpoints.

    ``done`` is called after each change. Where ``ending()``, a change that cannot be written is
    dropped: the next deliverer learns it from the endpoint itself.
    """

    def __init__(
        self,
        bus: EventBus,
        notify: Notify | None,
        ending: Callable[[], bool],
        done: Callable[[], None],
    ) -> None:
        self.bus = bus
        self.notify = notify
        self._ending = ending
        self._done = done
        self.pending: set[asyncio.Task[None]] = set()
        self._notifications: set[asyncio.Task[None]] = set()

    def pause(self, endpoint: Endpoint, seconds: float | None, reason: str) -> None:
        """Pause for ``seconds``, or for longer the more often it was paused."""

        async def work(session: Any) -> None:
            wait = None if seconds is None else max(seconds, 1.0)
            if await EventEndpoints(session).pause(endpoint.id, wait, reason):
                log.warning("event_endpoint_paused", endpoint=endpoint.name, reason=reason)
                facts = {"reason": reason, "seconds": wait or FIRST_PAUSE}
                await self.bus.emit("endpoint.paused", endpoint.name, facts, session=session)

        self._start(work)

    def resume(self, endpoint: Endpoint) -> None:
        """End the pause; what waits is due at once."""

        async def work(session: Any) -> None:
            paused = await EventEndpoints(session).resume(endpoint.id)
            if paused is None:
                return
            # after one short pause what has failed by itself keeps its own schedule
            due = 0
            if paused > FIRST_PAUSE:
                due = await EventDeliveries(session).make_due(endpoint.id)
            log.info("event_endpoint_resumed", endpoint=endpoint.name, due=due)
            await self.bus.emit("endpoint.resumed", endpoint.name, {"due": due}, session=session)

        self._start(work)

    def probe_failed(
        self, endpoint: Endpoint, probe: uuid.UUID, verdict: Verdict, error: str
    ) -> None:
        """Pause for longer, or disable after five days of failure."""

        async def work(session: Any) -> None:
            wait = None if verdict.retry_after is None else max(verdict.retry_after, 1.0)
            state = await EventEndpoints(session).probe_failed(endpoint.id, probe, wait, error)
            if state == "disabled":
                await self._disabled(session, endpoint, f"failed for five days: {error}")

        self._start(work)

    def disable(self, endpoint: Endpoint, reason: str) -> None:
        """Disable, and hold what waits."""

        async def work(session: Any) -> None:
            if await EventEndpoints(session).disable(endpoint.id, reason):
                await self._disabled(session, endpoint, reason)

        self._start(work)

    async def finish(self) -> None:
        """Wait until every change and notification is done."""
        while waiting := self.pending | self._notifications:
            await asyncio.wait(waiting)

    def _start(self, work: Callable[[Any], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(self._write(work))
        self.pending.add(task)

        def done(task: asyncio.Task[None]) -> None:
            self.pending.discard(task)
            self._done()

        task.add_done_callback(done)

    async def _write(self, work: Callable[[Any], Awaitable[None]]) -> None:
        pause = POLL
        while True:
            try:
                async with self.bus.database.transaction() as session:
                    await work(session)
                return
            except (AtlasError, OSError) as error:
                log.warning("event_endpoint_state_waits", error=describe(error))
                if self._ending():
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _disabled(self, session: Any, endpoint: Endpoint, reason: str) -> None:
        if self.notify is not None:
            title = f"The webhook endpoint {endpoint.name} is disabled"
            text = (
                f"{reason}; its deliveries are held: atlas events endpoints enable {endpoint.name}"
            )
            task = asyncio.ensure_future(_notified(self.notify, title, text))
            self._notifications.add(task)
            task.add_done_callback(self._notifications.discard)
        log.error(
            "event_endpoint_disabled",
            endpoint=endpoint.name,
            reason=reason,
            hint=f"mend it, then `atlas events endpoints enable {endpoint.name}`",
        )
        facts = {"reason": reason, "held": True}
        await self.bus.emit("endpoint.disabled", endpoint.name, facts, session=session)


async def _notified(notify: Notify, title: str, text: str) -> None:
    try:
        await notify(title, text, AlertChannel.OPS)
    except Exception as error:
        log.error("event_notification_failed", error=describe(error))
