"""The event bus: a log in PostgreSQL, handlers in this process, listeners and endpoints outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from atlas.config import Settings, get_settings
from atlas.db.after_commit import after_commit
from atlas.db.clock import Session
from atlas.db.errors import cause_of
from atlas.errors import AtlasError, InvalidInput, Unavailable
from atlas.events import recording
from atlas.events.delivery.deliverer import TIMEOUT, Deliverer
from atlas.events.delivery.endpoints import Endpoints, check_handler, default_endpoint
from atlas.events.delivery.senders import Notify, TargetHandler
from atlas.events.delivery.settings_endpoint import check_default, send_unrecorded
from atlas.events.event import Event, make_event
from atlas.events.handlers import Handler, Handlers
from atlas.events.listening import POLL, Batch, listen
from atlas.events.recording import append_alone, append_within, bounded
from atlas.events.retention import Retained, retain
from atlas.logging import get_logger
from atlas.notifications.jobs import note
from atlas.repositories.events.endpoints import EventEndpoints
from atlas.repositories.events.log import Appended, NewEvent

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["EventBus", "Handler", "dispatch_noted"]

log = get_logger(__name__)

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

#: Seconds that the endpoint of the settings may take to be made, of those that an emit has.
ENSURE_SECONDS = 2.0
#: Seconds for which an emit waits for the handlers that could begin at once.
HANDLER_WAIT = 0.04


class EventBus:
    """Records events, calls handlers, and delivers to endpoints.

    Without arguments the default database and the process's settings are used, from the first call
    on. Works from any thread and from several event loops one after the other; background work
    belongs to the loop it was started in, and `drain` waits for it.
    """

    def __init__(self, database: Database | None = None, settings: Settings | None = None) -> None:
        self._database = database
        self._settings = settings
        #: Seconds that one delivery attempt may take.
        self.timeout = TIMEOUT
        #: Operators' work on endpoints and rules.
        self.endpoints = Endpoints(self)
        self._handlers = Handlers()
        self._targets: dict[str, TargetHandler] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # loops with a delivery under way -> whether something came in since it last looked
        self._delivering: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, bool] = (
            weakref.WeakKeyDictionary()
        )
        self._ensured: Settings | None = None

    @property
    def database(self) -> Database:
        """The database of the log."""
        if self._database is None:
            from atlas.db import db

            return db
        return self._database

    @property
    def settings(self) -> Settings:
        """The settings in force. Raises `ConfigurationError`."""
        return self._settings or get_settings()

    def on(self, pattern: str) -> Callable[[HandlerT], HandlerT]:
        """Decorator: call the function, plain or async, with each `Event` whose type matches.

        ``pattern`` is a glob, case-sensitive: ``video.*``. Each handler has a queue of its own in
        the emitting
        process and gets its events one at a time, in order; plain functions run in a thread. 30 s an event;
        where more than 1,000 wait, further ones are counted and logged, and not handled.
        """
        if not isinstance(pattern, str) or not pattern:
            raise InvalidInput(
                "a handler needs a pattern", field="pattern", hint='write @events.on("video.*")'
            )

        def register(handler: HandlerT) -> HandlerT:
            self._handlers.add(pattern, handler)
            return handler

        return register

    def off(self, handler: Callable[..., Any], pattern: str | None = None) -> bool:
        """Forget ``handler``, for one pattern or for all. False if it was not registered."""
        return self._handlers.remove(handler, pattern)

    def target(self, name: str) -> Callable[[HandlerT], HandlerT]:
        """Decorator: what a rule with the target ``handler:NAME`` calls, in deliverers of this process.

        At least once for each event; what it raises is tried again as a webhook is. Plain functions run
        in a thread. Raises `InvalidInput` for a name that no rule takes.
        """
        check_handler(name)

        def register(handler: HandlerT) -> HandlerT:
            self._targets[name] = handler
            return handler

        return register

    async def emit(
        self,
        event_type: str,
        entity_id: str | Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        session: Session | None = None,
        wait: bool = False,
    ) -> None:
        """Record an event, call the handlers, start its delivery. Raises cancellation only.

        With ``session`` (on asyncpg) the row is part of the caller's transaction; handlers and delivery
        start after its commit, and not at all if it is rolled back. Without, the row has a transaction
        of its own, of 5 s at most.
        A row that cannot be written is logged, and undone alone; handlers run all the same, and the webhook
        of the settings gets one attempt.

        Handlers are waited for 40 ms at most; with ``wait`` (and no session) until they are done.
        ``emit(event_type, {...})`` has the payload as second argument. The payload must have a JSON form
        of 256 KiB at most; dates, UUIDs, enums, sets and dataclasses are converted. Does nothing at all
        under ``EVENT_BUS_ENABLED=false``.
        """
        await self.emit_many([(event_type, entity_id, payload)], session=session, wait=wait)

    async def emit_many(
        self,
        events: Iterable[Sequence[Any]],
        *,
        session: Session | None = None,
        wait: bool = False,
    ) -> None:
        """`emit` for many, in one statement: tuples of type, entity and payload, the latter two optional.

        One that cannot be taken is logged, and the others are recorded.
        """
        try:
            deadline = time.monotonic() + recording.EMIT_TIMEOUT
            settings = self.settings
            if not settings.event_bus_enabled:
                log.debug("event_bus_disabled")
                return
            made, rows = _make(events)
            if not made:
                return
            if settings.event_bus_webhook_url is not None:
                await self._ensure_default(settings)
            is_handled = any(self._handlers.wanted(event.event_type) for event in made)
            if is_handled:
                await self._handlers.attach()
            if session is None:
                seconds = deadline - time.monotonic()
                appended = await append_alone(self.database, rows, self._spawn, seconds)
                made = _recorded(made, appended)
                soon, all_ = self._dispatch(made)
                if handled := all_ if wait else soon:
                    await asyncio.wait(handled, timeout=None if wait else HANDLER_WAIT)
            else:
                appended = await append_within(self.database, session, rows)
                if is_handled or settings.event_bus_webhook_url is not None:
                    made = _recorded(made, appended)
                    after_commit(session, lambda: self._dispatch_all(made))
        except Exception as error:
            with contextlib.suppress(Exception):
                log.error("event_emit_failed", error=cause_of(error))

    def emit_soon(
        self,
        event_type: str,
        entity_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        """`emit` in the background of the running loop, for who must not wait; `drain` waits for it."""
        self._spawn(self.emit(event_type, entity_id, payload))

    async def drain(self) -> None:
        """Wait for the handlers and deliveries that were started in the background of this loop."""
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        while tasks := [
            task
            for task in [*self._tasks, *self._handlers.pending()]
            if task.get_loop() is loop and task is not current
        ]:
            await asyncio.wait(tasks)

    def listen(
        self,
        name: str,
        pattern: str = "*",
        *,
        since: datetime | None = None,
        limit: int = 500,
        poll: float = POLL,
        once: bool = False,
    ) -> AsyncGenerator[Batch]:
        """Batches of events whose type matches, for ever: ``async for batch in
        events.listen("name", "video.*")``.

        The cursor called ``name`` is kept in the database: a program that is started again goes on where the
        last acknowledged batch ended, and no event is passed over, however late its transaction
        commits. A new
        name begins with the oldest event that is kept, or with ``since``. Each event comes at least once, in
        order of ``seq``; those of one entity in order where their emitters held its row. Asking for the next
        batch acknowledges the one before; ``await batch.acknowledge()`` does at once. One process
        at a time reads under a name; others wait. Outages of PostgreSQL are waited for. With ``once`` it ends
        where nothing waits.
        Raises `InvalidInput`, and `ConfigurationError` such as a missing migration.
        """
        return listen(self.database, name, pattern, since=since, limit=limit, poll=poll, once=once)

    def deliverer(self, *, notify: Notify | None = None) -> Deliverer:
        """A worker that routes and delivers; ``notify`` sends for rules with the target
        ``discord:CHANNEL``.
        """
        return Deliverer(self, notify=notify, handlers=self._targets, timeout=self.timeout)

    async def deliver_pending(self, limit: int | None = None, notify: Notify | None = None) -> int:
        """Route and send what is due, up to ``limit`` deliveries; returns how many were delivered.

        Safe beside other processes doing the same. Raises `DatabaseError`; whatever an endpoint
        answers or is set to is recorded or logged.
        """
        settings = self.settings
        if not settings.event_bus_enabled:
            return 0
        if settings.event_bus_webhook_url is not None:
            await self._ensure_default(settings)
        return await self.deliverer(notify=notify).run_once(limit)

    async def retain(self) -> Retained:
        """Make partitions ahead, and drop the days past EVENT_BUS_RETENTION_DAYS that nobody needs.

        Raises `DatabaseError`.
        """
        return await retain(self)

    async def _ensure_default(self, settings: Settings) -> None:
        """Make the endpoint of the settings, once: it takes events from then on."""
        if self._ensured is settings:
            return
        try:
            new = default_endpoint(settings)
            if new is not None:
                check_default(settings)
                await bounded(
                    self.database,
                    lambda session: EventEndpoints(session).ensure(new),
                    self._spawn,
                    ENSURE_SECONDS,
                )
            self._ensured = settings
        except (AtlasError, ValueError) as error:
            if not isinstance(error, Unavailable):
                self._ensured = settings  # said once
            log.error("event_endpoint_not_made", error=cause_of(error))
        except Exception as error:
            log.error("event_endpoint_not_made", error=cause_of(error))

    def _dispatch(
        self, events: list[Event]
    ) -> tuple[list[asyncio.Future[None]], list[asyncio.Future[None]]]:
        """Queue the events for the handlers, and start their delivery; see `Handlers.dispatch`."""
        handled = self._handlers.dispatch(events)
        settings = self.settings
        if settings.event_bus_webhook_url is not None:
            if unrecorded := [event for event in events if event.seq is None]:
                self._spawn(send_unrecorded(settings, self.timeout, unrecorded))
            if len(unrecorded) < len(events):
                self._start_delivery()
        return handled

    def _dispatch_all(self, events: list[Event]) -> None:
        try:
            self._dispatch(events)
        except Exception as error:
            log.error("event_emit_failed", error=cause_of(error))

    def _start_delivery(self) -> None:
        loop = asyncio.get_running_loop()
        if loop not in self._delivering:
            self._spawn(self._deliver(loop))
        self._delivering[loop] = True

    async def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._delivering[loop]:
                self._delivering[loop] = False
                await self.deliver_pending()
        except Exception as error:
            log.error("event_delivery_stopped", error=cause_of(error))
            note(error, "deliverer")
        finally:
            del self._delivering[loop]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it, or has gone


async def dispatch_noted(bus: EventBus, session: Session, event: Event) -> None:
    """Call handlers, and deliver, once an event that a repository wrote is committed."""
    if bus._handlers.wanted(event.event_type):
        await bus._handlers.attach()
    after_commit(session, lambda: bus._dispatch_all([event]))


def _make(events: Iterable[Sequence[Any]]) -> tuple[list[Event], list[NewEvent]]:
    made, rows = [], []
    for given in events:
        try:
            if isinstance(given, str):
                given = (given,)
            event_type, entity_id, payload = (*given, None, None)[:3]
            event, row = make_event(event_type, entity_id, payload)
        except Exception as error:
            with contextlib.suppress(Exception):
                log.error("event_emit_failed", error=cause_of(error))
            continue
        made.append(event)
        rows.append(row)
    return made, rows


def _recorded(events: list[Event], appended: list[Appended] | None) -> list[Event]:
    if appended is None:
        return events
    return [
        replace(event, seq=row.seq, created_at=row.created_at)
        for event, row in zip(events, appended, strict=True)
    ]
