"""Handlers of this process: a queue each, so that none waits for another and no emitter for any.

A handler gets its events in order, one at a time. A plain function runs in a thread of its own, an async one
as a task; either may take `TIMEOUT` seconds. What overflows a queue is counted and logged.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import fnmatch
import inspect
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from atlas.events.event import Event
from atlas.logging import get_logger

__all__ = ["HUNG_THREADS", "Handler", "Handlers", "in_thread"]

log = get_logger(__name__)

Handler = Callable[[Event], Awaitable[object] | object]

#: Events that may wait for one handler.
QUEUE = 1_000
#: Seconds that a handler may take for one event.
TIMEOUT = 30.0
#: Seconds in which what waits is handled when the event loop or the program ends.
AT_EXIT = 5.0
#: Threads in which one plain function may hang before its queue stands still.
HUNG_THREADS = 4

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class _Queue:
    """One handler's events in one event loop."""

    def __init__(self, handler: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self.handler = handler
        self.loop = loop
        self.items: deque[tuple[Event, asyncio.Future[None]]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.dropped = 0
        self.hung: set[asyncio.Future[object]] = set()

    @property
    def is_idle(self) -> bool:
        return self.task is None

    def offer(self, event: Event) -> asyncio.Future[None] | None:
        """Queue the event; the future is done once it was handled. None: there is no room."""
        if len(self.items) >= QUEUE:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, ...: not a line for each
                log.error("event_handler_overflow", handler=self.name, dropped=self.dropped)
            return None
        done: asyncio.Future[None] = self.loop.create_future()
        self.items.append((event, done))
        if self.task is None:
            self.task = self.loop.create_task(self.work())
        return done

    @property
    def name(self) -> str:
        return str(getattr(self.handler, "__qualname__", type(self.handler).__qualname__))

    async def work(self) -> None:
        """Handle what waits, in order."""
        try:
            while self.items:
                event, done = self.items.popleft()
                try:
                    await self._handle(event)
                finally:
                    if not done.done():
                        done.set_result(None)
        finally:
            self.task = None

    async def _handle(self, event: Event) -> None:
        try:
            call = await self._call(event)
            if call.cancelled():
                log.error("event_handler_cancelled", handler=self.name, event_type=event.event_type)
            elif (error := call.exception()) is not None:
                log.error(
                    "event_handler_failed",
                    event_type=event.event_type,
                    handler=self.name,
                    # as text: structlog's own default shows local variables, and clients' hold tokens
                    stack="".join(traceback.format_exception(error)),
                )
        except TimeoutError:
            log.error(
                "event_handler_timeout",
                handler=self.name,
                event_type=event.event_type,
                seconds=TIMEOUT,
            )

    async def _call(self, event: Event) -> asyncio.Future[object]:
        """Run the handler to its end. Raises TimeoutError; what goes on hanging is left behind."""
        while len(self.hung) >= HUNG_THREADS:
            await asyncio.wait(self.hung, return_when=asyncio.FIRST_COMPLETED)
        plain = not _is_async(self.handler)
        call: asyncio.Future[object] = (
            in_thread(self.loop, self.handler, event)[0]
            if plain
            else self.loop.create_task(_awaited(self.handler, event))
        )
        await self._finish(call)
        if plain and not call.cancelled() and call.exception() is None:
            result = call.result()
            if inspect.isawaitable(result):
                call = self.loop.create_task(_result(result))
                await self._finish(call)
        return call

    async def _finish(self, call: asyncio.Future[object]) -> None:
        try:
            await asyncio.wait({call}, timeout=TIMEOUT)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if not call.done():
            self.hung.add(call)
            call.add_done_callback(self._returned)
            if isinstance(call, asyncio.Task):
                call.cancel()
            raise TimeoutError

    def _returned(self, call: asyncio.Future[object]) -> None:
        self.hung.discard(call)
        if not call.cancelled():
            call.exception()  # seen: too late to matter


class Handlers:
    """The registered handlers and their queues, in whatever event loop events are dispatched."""

    def __init__(self) -> None:
        self._registered: tuple[tuple[str, Handler], ...] = ()
        self._queues: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[str, Handler], _Queue]
        ] = weakref.WeakKeyDictionary()
        self._guards: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None]] = (
            weakref.WeakKeyDictionary()
        )

    def add(self, pattern: str, handler: Handler) -> None:
        """Register a handler."""
        self._registered = (*self._registered, (pattern, handler))

    def remove(self, handler: Handler, pattern: str | None = None) -> bool:
        """Forget a handler, for one pattern or for all. False if it was not registered."""
        kept = tuple(
            entry
            for entry in self._registered
            if entry[1] != handler or pattern not in (None, entry[0])
        )
        found = len(kept) < len(self._registered)
        self._registered = kept
        return found

    def wanted(self, event_type: str) -> bool:
        """Whether any handler is for this type."""
        return any(fnmatch.fnmatchcase(event_type, pattern) for pattern, _ in self._registered)

    async def attach(self) -> None:
        """Make the running loop handle what is left when it ends."""
        loop = asyncio.get_running_loop()
        if loop not in self._guards:
            guard = self._guards[loop] = self._until_the_loop_ends(loop)
            await anext(guard)

    def dispatch(
        self, events: Sequence[Event]
    ) -> tuple[list[asyncio.Future[None]], list[asyncio.Future[None]]]:
        """Queue events. Returns what is done when they are handled: by handlers that had nothing to
        do, and by all.
        """
        loop = asyncio.get_running_loop()
        queues = self._queues.setdefault(loop, {})
        busy = {entry for entry, queue in queues.items() if not queue.is_idle}
        soon, all_ = [], []
        for event in events:
            for entry in self._registered:
                pattern, handler = entry
                if not fnmatch.fnmatchcase(event.event_type, pattern):
                    continue
                if entry not in queues:
                    queues[entry] = _Queue(handler, loop)
                if (done := queues[entry].offer(event)) is not None:
                    all_.append(done)
                    if entry not in busy:
                        soon.append(done)
        return soon, all_

    def pending(self) -> list[asyncio.Task[None]]:
        """The work under way in the running loop, but for that of the handler that asks."""
        queues = self._queues.get(asyncio.get_running_loop(), {}).values()
        return [queue.task for queue in queues if queue.task is not None]

    @property
    def dropped(self) -> int:
        """Events that overflowed a queue of a loop that is still there."""
        return sum(queue.dropped for queues in self._queues.values() for queue in queues.values())

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None]:
        """Started in the loop, and so closed by its ``shutdown_asyncgens``, after its tasks."""
        try:
            yield
        finally:
            left = [queue for queue in self._queues.pop(loop, {}).values() if queue.items]
            if left:
                work = asyncio.gather(*(queue.work() for queue in left))
                try:
                    await asyncio.wait_for(work, AT_EXIT)
                except TimeoutError:
                    count = sum(len(queue.items) for queue in left)
                    log.error("event_handlers_cut_off", events=count)


def _is_async(handler: Handler) -> bool:
    # the latter: an object whose call is async
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        type(handler).__call__
    )


async def _awaited(handler: Handler, event: Event) -> object:
    result = handler(event)
    return await result if inspect.isawaitable(result) else result


async def _result(awaitable: Awaitable[object]) -> object:
    return await awaitable


def in_thread(
    loop: asyncio.AbstractEventLoop, handler: Handler, event: Event
) -> tuple[asyncio.Future[object], threading.Thread]:
    """Call a plain function in a thread that no interpreter waits for for ever, nor other work for."""
    future: asyncio.Future[object] = loop.create_future()
    context = contextvars.copy_context()

    def finish(setter: Callable[[Any], None], value: object) -> None:
        if not future.done():
            setter(value)

    def run() -> None:
        setter: Callable[[Any], None]
        value: object
        try:
            value, setter = context.run(handler, event), future.set_result
        except BaseException as error:
            value, setter = error, future.set_exception
            # the former cannot be raised into a future, and the others would end who waits for it
            if isinstance(error, StopIteration) or not isinstance(error, Exception):
                value = RuntimeError(repr(error))
                value.__cause__ = error
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(finish, setter, value)

    if not _threads:
        atexit.unregister(_let_threads_finish)
        atexit.register(_let_threads_finish)
    thread = threading.Thread(target=run, name="atlas-event-handler", daemon=True)
    _threads.add(thread)
    thread.start()
    return future, thread


def _let_threads_finish() -> None:
    deadline = time.monotonic() + AT_EXIT
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
