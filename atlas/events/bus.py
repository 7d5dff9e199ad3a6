"""The event bus: a log in PostgreSQL, handlers in this process, listeners and endpoints outside of it."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from atlas import webhook_client
from atlas.config import Settings, get_settings
from atlas.errors import AtlasError, InvalidInput, Unavailable
from atlas.events.after_commit import after_commit
from atlas.events.delivery.deliverer import TIMEOUT, Deliverer
from atlas.events.delivery.endpoints import Endpoints, default_endpoint
from atlas.events.delivery.senders import HttpSender, Notify, TargetHandler, message, resolve
from atlas.events.delivery.signing import read_secrets
from atlas.events.event import Event, make_event
from atlas.events.handlers import Handler, Handlers
from atlas.events.listening import POLL, Batch, listen
from atlas.events.retention import Retained, retain
from atlas.logging import get_logger
from atlas.repositories.events.deliveries import Delivery
from atlas.repositories.events.endpoints import EventEndpoints
from atlas.repositories.events.log import NO_PARTITION, Appended, EventLog, NewEvent, NotAppended

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["EventBus", "Handler"]

log = get_logger(__name__)

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

#: Seconds that an emit outside of a session may take, whatever state PostgreSQL is in.
EMIT_TIMEOUT = 5.0
#: Seconds for which an emit waits for the handlers that could begin at once.
HANDLER_WAIT = 0.04


class EventBus:
    """Records events, tells handlers, and delivers to endpoints.

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

        At least once for each event; what it raises is tried again as a webhook is.
        """

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
        session: AsyncSession | None = None,
        wait: bool = False,
    ) -> None:
        """Record an event, tell the handlers, start its delivery. Raises cancellation only.

        With ``session`` the row is part of the caller's transaction; handlers and delivery start after its
        commit, and not at all if it is rolled back. Without, the row has a transaction of its own,
        of 5 s at most.
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
        session: AsyncSession | None = None,
        wait: bool = False,
    ) -> None:
        """`emit` for many, in one statement: tuples of type, entity and payload, the latter two optional.

        One that cannot be taken is logged, and the others are recorded.
        """
        try:
            settings = self.settings
            if not settings.event_bus_enabled:
                log.debug("event_bus_disabled")
                return
            made, rows = _make(events)
            if not made:
                return
            if settings.event_bus_webhook_url is not None:
                await self._ensure_default(settings)
            if any(self._handlers.wanted(event.event_type) for event in made):
                await self._handlers.attach()
            if session is None:
                made = _recorded(made, await self._append_alone(rows))
                soon, all_ = self._dispatch(made)
                if handled := all_ if wait else soon:
                    await asyncio.wait(handled, timeout=None if wait else HANDLER_WAIT)
            else:
                made = _recorded(made, await self._append_within(session, rows))
                after_commit(session, lambda: self._dispatch_all(made))
        except Exception as error:
            with contextlib.suppress(Exception):
                log.error("event_emit_failed", error=_describe(error))

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

    async def _append_within(
        self, session: AsyncSession, rows: list[NewEvent]
    ) -> list[Appended] | None:
        try:
            # on the connection: the session's own way would flush the caller's objects
            with session.no_autoflush:
                connection = await session.connection()
            return await self._append(EventLog(connection), rows)
        except Exception as error:
            _log_unrecorded(error, rows)
            return None

    async def _append_alone(self, rows: list[NewEvent]) -> list[Appended] | None:
        """Write in a transaction of their own, and let go of it when the time is over."""
        drivers: list[Any] = []

        async def write() -> list[Appended]:
            async with self.database.autocommit() as session:
                connection = await session.connection()
                raw = await connection.get_raw_connection()
                drivers.append(raw.driver_connection)
                return await self._append(EventLog(connection), rows)

        task = self._spawn(write())
        try:
            await asyncio.wait({task}, timeout=EMIT_TIMEOUT)
            if not task.done():
                raise Unavailable(f"PostgreSQL did not answer within {EMIT_TIMEOUT:.0f} s")
            appended: list[Appended] = task.result()
            return appended
        except asyncio.CancelledError:
            _let_go(task, drivers)
            raise
        except Exception as error:
            _let_go(task, drivers)
            _log_unrecorded(error, rows)
            return None

    async def _append(self, events: EventLog, rows: list[NewEvent]) -> list[Appended]:
        try:
            return await events.append(rows)
        except NotAppended as error:
            if error.sqlstate != NO_PARTITION:
                raise
        # not in the caller's transaction, which would hold its locks until it ends
        async with asyncio.timeout(EMIT_TIMEOUT), self.database.transaction() as own:
            await EventLog(own).ensure_days()
        return await events.append(rows)

    async def _ensure_default(self, settings: Settings) -> None:
        """Make the endpoint of the settings, once: it takes events from then on."""
        if self._ensured is settings:
            return
        try:
            new = default_endpoint(settings)
            if new is not None:
                _check_default(settings)
                async with asyncio.timeout(2), self.database.transaction() as session:
                    await EventEndpoints(session).ensure(new)
            self._ensured = settings
        except (AtlasError, ValueError) as error:
            if not isinstance(error, Unavailable):
                self._ensured = settings  # said once
            log.error("event_endpoint_not_made", error=_describe(error))
        except Exception as error:
            log.error("event_endpoint_not_made", error=_describe(error))

    def _dispatch(
        self, events: list[Event]
    ) -> tuple[list[asyncio.Future[None]], list[asyncio.Future[None]]]:
        """Queue the events for the handlers, and start their delivery; see `Handlers.dispatch`."""
        handled = self._handlers.dispatch(events)
        settings = self.settings
        if settings.event_bus_webhook_url is not None:
            if unrecorded := [event for event in events if event.seq is None]:
                self._spawn(self._send_unrecorded(unrecorded))
            if len(unrecorded) < len(events):
                self._start_delivery()
        return handled

    def _dispatch_all(self, events: list[Event]) -> None:
        try:
            self._dispatch(events)
        except Exception as error:
            log.error("event_emit_failed", error=_describe(error))

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
            log.error("event_delivery_stopped", error=_describe(error))
        finally:
            del self._delivering[loop]

    async def _send_unrecorded(self, events: list[Event]) -> None:
        """Once each: better than not at all while the database is away."""
        try:
            settings = self.settings
            url = webhook_client.check_url(
                resolve("env:EVENT_BUS_WEBHOOK_URL", settings) or "", "EVENT_BUS_WEBHOOK_URL"
            )
            keys = read_secrets(resolve("env:EVENT_BUS_WEBHOOK_SECRET", settings) or "")
            allow = settings.event_bus_allow_private or settings.throwaway
            new = default_endpoint(settings)
            async with webhook_client.client(timeout=self.timeout, allow_private=allow) as client:
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
            log.error("event_delivery_stopped", error=_describe(error))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it, or has gone


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
                log.error("event_emit_failed", error=_describe(error))
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


def _unrecorded(event: Event) -> Delivery:
    from datetime import UTC
    from json import dumps
    from uuid import UUID

    payload = dumps(event.payload, ensure_ascii=False)
    now = datetime.now(UTC)
    return Delivery(
        event.id, 0, now, 1, None, None, event.event_type, event.entity_id, payload, UUID(int=0)
    )


def _wanted(event_type: str, patterns: Iterable[str]) -> bool:
    import fnmatch

    return any(fnmatch.fnmatchcase(event_type, pattern) for pattern in patterns)


def _check_default(settings: Settings) -> None:
    """Say what is wrong with the settings' webhook now, and that it is not signed or not encrypted."""
    url = webhook_client.check_url(
        resolve("env:EVENT_BUS_WEBHOOK_URL", settings) or "", "EVENT_BUS_WEBHOOK_URL"
    )
    if not read_secrets(resolve("env:EVENT_BUS_WEBHOOK_SECRET", settings) or ""):
        log.warning("event_webhook_unsigned", hint="set EVENT_BUS_WEBHOOK_SECRET")
    if url.startswith("http://") and not settings.throwaway:
        log.warning("event_webhook_unencrypted", hint="use https:// in EVENT_BUS_WEBHOOK_URL")


def _let_go(task: asyncio.Task[Any], drivers: list[Any]) -> None:
    """End a task that waits for PostgreSQL, without waiting for PostgreSQL."""
    if task.done():
        return
    for driver in drivers:
        with contextlib.suppress(Exception):
            driver.terminate()
    task.cancel()


def _log_unrecorded(error: Exception, rows: Sequence[NewEvent]) -> None:
    with contextlib.suppress(Exception):  # whatever is wrong with the log is nobody's trouble here
        types = sorted({row.event_type for row in rows})
        log.error("event_not_recorded", event_types=types, error=_describe(error))


def _describe(error: Exception) -> str:
    """What happened; SQLAlchemy's own text would repeat the statement with the payload."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    return f"{type(cause).__name__}: {cause}"
