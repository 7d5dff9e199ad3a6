"""The event bus: rows in ``system_events``, handlers in this process, a webhook outside of it."""

from __future__ import annotations

import asyncio
import fnmatch
import inspect
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import Settings, get_settings
from atlas.errors import InvalidInput
from atlas.events.after_commit import after_commit
from atlas.events.delivery import TIMEOUT, Webhook, deliver_due, send_unrecorded, subscribed
from atlas.events.event import Event, make_event
from atlas.logging import get_logger
from atlas.repositories.events import Outbox

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["EventBus", "Handler"]

log = get_logger(__name__)

Handler = Callable[[Event], Awaitable[object] | object]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

#: Undelivered events are kept this long, then removed: the table must stay small without a
#: receiver.
UNDELIVERED = timedelta(days=30)
#: Rows that one transaction of `EventBus.purge` deletes.
PURGE_BATCH = 5_000


class EventBus:
    """Records events, tells handlers, and delivers to ``EVENT_BUS_WEBHOOK_URL``.

    Without arguments the default database and the process's settings are used, from the first call
    on. Works from any thread and from several event loops one after the other; background work
    belongs to the loop it was started in, and `drain` waits for it.
    """

    def __init__(self, database: Database | None = None, settings: Settings | None = None) -> None:
        self._database = database
        self._settings = settings
        #: Seconds that one delivery attempt may take.
        self.timeout = TIMEOUT
        self._handlers: tuple[tuple[str, Handler], ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        # loops -> events of a commit whose task has not begun yet
        self._committed: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, list[tuple[Event, bool]]
        ] = weakref.WeakKeyDictionary()
        # loops with a delivery under way -> whether something came in since it last looked
        self._delivering: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, bool] = (
            weakref.WeakKeyDictionary()
        )
        self._gone: set[str] = set()
        self._warned_unsigned = False

    @property
    def database(self) -> Database:
        """The database of the outbox."""
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

        ``pattern`` is a glob, case-sensitive: ``video.*``. Handlers run in the order they were
        registered, in the emitting process; a plain function runs on the event loop, so keep it
        short.
        """
        if not isinstance(pattern, str) or not pattern:
            raise InvalidInput(
                "a handler needs a pattern", field="pattern", hint='write @events.on("video.*")'
            )

        def register(handler: HandlerT) -> HandlerT:
            self._handlers = (*self._handlers, (pattern, handler))
            return handler

        return register

    def off(self, handler: Callable[..., Any], pattern: str | None = None) -> bool:
        """Forget ``handler``, for one pattern or for all. False if it was not registered."""
        kept = tuple(
            entry
            for entry in self._handlers
            if entry[1] != handler or pattern not in (None, entry[0])
        )
        found = len(kept) < len(self._handlers)
        self._handlers = kept
        return found

    async def emit(
        self,
        event_type: str,
        entity_id: str | Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
        *,
        session: AsyncSession | None = None,
    ) -> None:
        """Record an event, tell the handlers, start its delivery. Raises cancellation only.

        With ``session`` the row is written in a savepoint of the caller's transaction; handlers and
        delivery start after its commit, in the background, and not at all if it is rolled back.
        Without, the row has a transaction of its own and handlers have finished on return. A row
        that cannot be written is logged; handlers run all the same, and the webhook gets one
        attempt.

        ``emit(event_type, {...})`` gives the payload as second argument. The payload must have a
        JSON form; dates, UUIDs, enums, sets and dataclasses are converted. Does nothing at all
        under ``EVENT_BUS_ENABLED=false``.
        """
        try:
            settings = self.settings
            if not settings.event_bus_enabled:
                log.debug("event_bus_disabled", event_type=event_type)
                return
            event = make_event(event_type, entity_id, payload)
            deliver = subscribed(settings, event.event_type) and not self._is_gone(settings)
            if session is None:
                event = await self._record(event, deliver)
                await self._handle(event)
                self._start_delivery(event, deliver)
            else:
                event = await self._record_within(session, event, deliver)
                after_commit(session, lambda: self._follow_up_soon(event, deliver))
        except Exception as error:
            log.error("event_emit_failed", event_type=str(event_type), error=_describe(error))

    async def drain(self) -> None:
        """Wait for the handlers and deliveries that were started in the background of this loop."""
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        while tasks := [
            task for task in list(self._tasks) if task.get_loop() is loop and task is not current
        ]:
            await asyncio.wait(tasks)

    async def deliver_pending(self, limit: int | None = None) -> int:
        """Send what is due to the webhook, up to ``limit`` events; returns how many were delivered.

        Safe beside other processes doing the same. Stops early where the endpoint does not answer
        or asks for a pause. Raises `ConfigurationError` for a wrong address or secret,
        `DatabaseError`.
        """
        settings = self.settings
        webhook = Webhook.from_settings(settings) if settings.event_bus_enabled else None
        if webhook is None or webhook.url in self._gone:
            return 0
        if not webhook.keys and not self._warned_unsigned:
            self._warned_unsigned = True
            log.warning("event_webhook_unsigned", hint="set EVENT_BUS_WEBHOOK_SECRET")
        run = await deliver_due(self.database, replace(webhook, timeout=self.timeout), limit)
        if run.gone:
            self._gone.add(webhook.url)
            log.error("event_webhook_gone", hint="change or remove EVENT_BUS_WEBHOOK_URL")
        return run.delivered

    async def purge(self, days: float) -> int:
        """Delete events older than ``days`` by the database's clock; returns how many.

        Those still to be delivered are kept for 30 days at least.
        """
        if days < 0:
            raise InvalidInput(f"days must not be negative: {days}", field="days", value=days)
        older_than = timedelta(days=days)
        total = lost = 0
        while True:
            async with self.database.transaction() as session:
                deleted = await Outbox(session).purge(older_than, UNDELIVERED, PURGE_BATCH)
            total += len(deleted)
            lost += sum(deleted)
            if len(deleted) < PURGE_BATCH:
                break
        if lost:
            log.warning("events_removed_undelivered", rows=lost)
        return total

    async def _record(self, event: Event, deliver: bool) -> Event:
        try:
            async with self.database.transaction() as session:
                row_id, created_at = await Outbox(session).add(
                    event.event_type, event.entity_id, event.payload, deliver=deliver
                )
        except Exception as error:
            log.error("event_not_recorded", event_type=event.event_type, error=_describe(error))
            return event
        return replace(event, id=row_id, created_at=created_at)

    async def _record_within(self, session: AsyncSession, event: Event, deliver: bool) -> Event:
        try:
            # a savepoint of the connection: the session's own would flush and expire the caller's
            # objects
            with session.no_autoflush:
                connection = await session.connection()
                async with connection.begin_nested():
                    row_id, created_at = await Outbox(session).add(
                        event.event_type, event.entity_id, event.payload, deliver=deliver
                    )
        except Exception as error:
            log.error("event_not_recorded", event_type=event.event_type, error=_describe(error))
            return event
        return replace(event, id=row_id, created_at=created_at)

    def _follow_up_soon(self, event: Event, deliver: bool) -> None:
        """Handle a committed event in the background, after those of the same commit before it."""
        loop = asyncio.get_running_loop()
        if loop not in self._committed:
            self._committed[loop] = []
            self._spawn(self._follow_up(loop))
        self._committed[loop].append((event, deliver))

    async def _follow_up(self, loop: asyncio.AbstractEventLoop) -> None:
        for event, deliver in self._committed.pop(loop):
            await self._handle(event)
            self._start_delivery(event, deliver)

    async def _handle(self, event: Event) -> None:
        for pattern, handler in self._handlers:
            if not fnmatch.fnmatchcase(event.event_type, pattern):
                continue
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            except Exception as error:
                log.error(
                    "event_handler_failed",
                    event_type=event.event_type,
                    handler=getattr(handler, "__qualname__", repr(handler)),
                    # as text: structlog's own default shows local variables, and clients' hold tokens
                    stack="".join(traceback.format_exception(error)),
                )

    def _start_delivery(self, event: Event, deliver: bool) -> None:
        if not deliver:
            return
        if event.id is None:
            self._spawn(self._send_unrecorded(event))
            return
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

    async def _send_unrecorded(self, event: Event) -> None:
        try:
            webhook = Webhook.from_settings(self.settings)
            if webhook is not None:
                webhook = replace(webhook, timeout=self.timeout)
                sent = await send_unrecorded(webhook, event)
                log.warning("event_sent_unrecorded", event_type=event.event_type, delivered=sent)
        except Exception as error:
            log.error("event_delivery_stopped", error=_describe(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    def _is_gone(self, settings: Settings) -> bool:
        url = settings.event_bus_webhook_url
        return url is not None and url.get_secret_value().strip() in self._gone


def _describe(error: Exception) -> str:
    """What happened; SQLAlchemy's own text would repeat the statement with the payload."""
    cause = error.orig if isinstance(error, StatementError) and error.orig else error
    return f"{type(cause).__name__}: {cause}"
