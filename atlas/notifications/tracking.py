"""Errors in groups: counted in PostgreSQL over all processes, announced once, then in digests.

Whoever captures never waits. A thread of its own writes the counts of about a second in one statement, and
the database elects who announces a group. Without a database each process announces a group once an hour,
and adds its counts when the database is back.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import json
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from atlas.config import Settings
from atlas.logging import get_logger
from atlas.notifications.announcements import announcement, digest, summary
from atlas.notifications.fingerprint import ALGORITHM, chain, fingerprint, place, stack
from atlas.notifications.forwarding import Sentry
from atlas.notifications.message import find_level, plain
from atlas.notifications.sharing import Shared
from atlas.repositories.notifications import Announced, ErrorGroups, Lanes, Tally
from atlas.types import AlertChannel, AlertLevel

__all__ = ["Captured", "Tracker"]

log = get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds that errors are gathered before they are written.
_GATHER = 1.0
#: Seconds from a group's announcement until this process looks for digests, and between later looks.
_DIGEST_AFTER, _DIGEST_EVERY = 301.0, 3_600.0
#: Seconds without an error after which the thread ends, unless it waits for a group's first digest.
_QUIET = 120.0
#: New groups a minute that are announced one by one.
_NEW_A_MINUTE = 10
#: Bytes of a context, characters of a message and of a stack that are kept.
_CONTEXT_BYTES, _MESSAGE, _STACK = 8_192, 1_000, 6_000
#: Seconds after which a database that did not answer is asked again.
_RETRY_EVERY = 30.0
#: Groups that wait for a database, and seconds between two announcements of one without it.
_MOST_GROUPS, _ALONE_EVERY = 1_000, 3_600.0
#: Seconds that an ending program waits for what was captured last.
_LAST_WORDS = 5.0


#: At exit asyncio can look up no host any more once the interpreter has ended its thread pools: what is said
#: last has to be said before, for which there is no public hook.
_at_exit: Callable[[Callable[[], None]], object] = getattr(
    threading, "_register_atexit", atexit.register
)


class Send(Protocol):
    """`Notifier.send`."""

    def __call__(
        self,
        title: str,
        description: str,
        channel: AlertChannel | str = ...,
        level: AlertLevel | str = ...,
        fields: Any = ...,
    ) -> Awaitable[bool]: ...


@dataclass(frozen=True, slots=True)
class Captured:
    """What was captured: the group's fingerprint. Await it to see it counted and announced."""

    fingerprint: str
    _flush: Callable[[], Awaitable[None]] = field(repr=False, compare=False)

    def __await__(self) -> Generator[Any, None, str]:
        yield from self._flush().__await__()
        return self.fingerprint


class Tracker:
    """Tracks the errors of a process."""

    def __init__(self, send: Send, shared: Shared, settings: Settings | None = None) -> None:
        self._send, self._shared = send, shared
        self._sentry = Sentry(settings)
        #: The last error of each group, until it is forwarded.
        self._errors: dict[str, BaseException] = {}
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}
        self._waiting: list[Future[None]] = []
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._ending = False
        #: What waits for the database, and until when.
        self._kept: dict[str, Tally] = {}
        self._retry_at = 0.0
        #: By fingerprint when it was announced by this process without a database.
        self._announced_at: dict[str, float] = {}
        self._new_times: list[float] = []
        #: New groups that a summary will name, and from when on it may.
        self._unannounced: list[Tally] = []
        self._summary_at = 0.0
        self._digest_at = math.inf

    def capture(
        self, error: object, context: object, given: str | None, level: AlertLevel | str
    ) -> Captured:
        """See `Notifier.capture`."""
        mark = ""
        try:
            mark = self._capture(error, context, given, level)
        except Exception as failure:  # whatever a foreign error's attributes do
            log.error("error_not_captured", kind=type(error).__name__, error=type(failure).__name__)
        return Captured(mark, self.flush)

    def watch(self, function: Callable[P, T]) -> Callable[P, T]:
        """See `Notifier.watch`."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def watched(*args: P.args, **kwargs: P.kwargs) -> Any:
                try:
                    return await function(*args, **kwargs)
                except Exception as error:
                    self.capture(error, None, None, AlertLevel.CRITICAL)
                    raise

            return cast(Callable[P, T], watched)

        @functools.wraps(function)
        def watched_plain(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self.capture(error, None, None, AlertLevel.CRITICAL)
                raise

        return watched_plain

    async def flush(self) -> None:
        """Wait until what was captured so far is counted and announced."""
        done: Future[None] = Future()
        with self._lock:
            if not self._tallies and not self._is_running():
                return
            self._waiting.append(done)
        self._start()
        self._wake.set()
        await asyncio.wrap_future(done)

    async def digests(self) -> int:
        """See `Notifier.digests`."""
        due = await self._shared.run(lambda session: ErrorGroups(session).digests()) or []
        for one in due[:_NEW_A_MINUTE]:
            await self._send(**digest(one))
        if rest := due[_NEW_A_MINUTE:]:
            await self._send(**summary(rest, "kinds of errors that go on"))
        return len(due)

    def _capture(
        self, error: object, context: object, given: str | None, level: AlertLevel | str
    ) -> str:
        if isinstance(error, BaseExceptionGroup):
            marks = [self._capture(one, context, given, level) for one in error.exceptions]
            return marks[0] if marks else ""
        if not isinstance(error, BaseException):
            error = RuntimeError(plain(error))
        message = plain(error)[:_MESSAGE]
        mark = fingerprint(error, message) if given is None else plain(given)[:200]
        with self._lock:
            known = self._tallies.get(mark)
            if known is not None:
                self._tallies[mark] = replace(known, count=known.count + 1)
                return mark
        kinds = " from ".join(type(link).__name__ for link in chain(error))
        tally = Tally(
            mark,
            ALGORITHM,
            kinds,
            place(error),
            message,
            find_level(level).name,
            plain(stack(error))[-_STACK:],
            _facts(context),
            1,
        )
        with self._lock:
            if mark in self._tallies:
                tally = replace(tally, count=self._tallies[mark].count + 1)
            elif len(self._tallies) >= _MOST_GROUPS:
                log.error("error_group_left_out", fingerprint=mark, kind=kinds)
                return mark
            self._tallies[mark] = tally
            if self._sentry.is_wanted:
                self._errors[mark] = error
        self._start()
        return mark

    def _is_running(self) -> bool:
        return self._thread is not None and self._process == os.getpid() and self._thread.is_alive()

    def _start(self) -> None:
        """The thread that writes, in this process: a fork has none of its parent's."""
        with self._lock:
            if self._is_running() or self._ending:
                return
            if self._process != os.getpid():
                self._process = os.getpid()
                self._wake = threading.Event()
                _at_exit(self._end)
            self._thread = threading.Thread(target=self._work, name="atlas-errors", daemon=True)
            self._thread.start()

    def _end(self) -> None:
        self._ending = True
        self._wake.set()
        if self._is_running() and self._thread is not None:
            self._thread.join(_LAST_WORDS)
        self._sentry.close()

    def _work(self) -> None:
        """Write until nothing has come for a while; the next capture begins again."""
        idle_since = time.monotonic()
        while True:
            self._wake.wait(_GATHER)
            self._wake.clear()
            with self._lock:
                new, self._tallies = self._tallies, {}
                waiting, self._waiting = self._waiting, []
                tallies = self._with_kept(new)
            try:
                if tallies or self._is_due():
                    asyncio.run(self._round(tallies))
                    idle_since = time.monotonic() if tallies else idle_since
            except Exception as error:  # nothing may end the thread with callers waiting
                log.error("errors_not_tracked", groups=len(tallies), error=type(error).__name__)
            finally:
                for done in waiting:
                    done.set_result(None)
            with self._lock:
                now = time.monotonic()
                quiet = now - idle_since > _QUIET and self._digest_at > now + _DIGEST_AFTER
                if (self._ending or quiet) and not self._tallies and not self._waiting:
                    self._thread = None
                    return

    def _is_due(self) -> bool:
        """Whether there is a digest or a summary to be sent."""
        now = time.monotonic()
        summary_due = self._ending or now >= self._summary_at
        return now >= self._digest_at or bool(self._unannounced and summary_due)

    async def _round(self, tallies: list[Tally]) -> None:
        if tallies:
            await self._write(tallies)
        now = time.monotonic()
        if self._unannounced and (now >= self._summary_at or self._ending):
            self._summary_at = now + 60
            if await self._granted("summary", 1, 1) != 0:
                tallies, self._unannounced = self._unannounced, []
                if await self._send(**summary(tallies)):
                    await self._confirm({one.fingerprint: one.count for one in tallies})
        if now >= self._digest_at:
            self._digest_at = now + _DIGEST_EVERY if await self.digests() else math.inf

    async def _write(self, tallies: list[Tally]) -> None:
        announced = await self._shared.run(lambda session: ErrorGroups(session).add(tallies))
        if announced is None:
            announced = self._keep(tallies)
        by_mark = {tally.fingerprint: tally for tally in tallies}
        now = time.monotonic()
        self._new_times = [moment for moment in self._new_times if moment > now - 60]
        room = max(0, _NEW_A_MINUTE - len(self._new_times))
        new = sum(one.reason == "new" for one in announced)
        if new:
            granted = await self._granted("new", new, _NEW_A_MINUTE)
            room = room if granted is None else min(room, granted)
        sent: dict[str, int] = {}
        for one in announced:
            tally = by_mark[one.fingerprint]
            if one.reason == "new":
                if room <= 0:
                    self._unannounced.append(tally)
                    continue
                room -= 1
                self._new_times.append(now)
            self._digest_at = min(self._digest_at, now + _DIGEST_AFTER)
            if await self._send(**announcement(tally, one)):
                sent[one.fingerprint] = one.count
        await self._confirm(sent)
        self._forward(tallies)

    def _forward(self, tallies: list[Tally]) -> None:
        """Pass on one error of each group that was seen since the last time."""
        for tally in tallies:
            with self._lock:
                error = self._errors.pop(tally.fingerprint, None)
            if error is not None:
                self._sentry.forward(error, tally)

    def _with_kept(self, new: dict[str, Tally]) -> list[Tally]:
        """The new counts, and with them those that have waited for the database."""
        if not new and (not self._kept or time.monotonic() < self._retry_at):
            return []
        kept, self._kept = self._kept, {}
        for mark, tally in new.items():
            before = kept[mark].count if mark in kept else 0
            kept[mark] = replace(tally, count=tally.count + before)
        return list(kept.values())

    def _keep(self, tallies: list[Tally]) -> list[Announced]:
        """Without a database: the counts wait for it, and a group is announced once an hour."""
        now, announced = time.monotonic(), []
        self._retry_at = now + _RETRY_EVERY
        with self._lock:
            for tally in tallies:
                if len(self._kept) < _MOST_GROUPS:
                    self._kept[tally.fingerprint] = tally
                if now - self._announced_at.get(tally.fingerprint, -_ALONE_EVERY) >= _ALONE_EVERY:
                    self._announced_at[tally.fingerprint] = now
                    announced.append(Announced(tally.fingerprint, "new", tally.count))
        return announced

    async def _confirm(self, counts: Mapping[str, int]) -> None:
        """Store what was announced: what is not, the next digest tells."""
        if counts:
            await self._shared.run(lambda session: ErrorGroups(session).confirm(counts))

    async def _granted(self, name: str, wanted: int, most: int) -> int | None:
        return await self._shared.run(lambda session: Lanes(session).grant(name, wanted, most))


def _facts(context: object) -> dict[str, Any]:
    """The context as plain JSON without secrets, 8 kB at most."""
    if context is None:
        return {}
    given = context if isinstance(context, Mapping) else {"context": context}
    facts: dict[str, Any] = {}
    size = 0
    for name in list(given)[:100]:
        key, value = plain(name)[:200], plain(given[name])[:2_000]
        # once more with its name beside it: `password=...` is a secret by its name
        _, _, value = plain(f"{key}={value}").partition("=")
        size += len(json.dumps([key, value]))
        if size > _CONTEXT_BYTES:
            facts["..."] = "more left out"
            break
        facts[key] = value
    return facts
