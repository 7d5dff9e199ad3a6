"""How fast a project may be asked: nothing is held back until the API says "too fast"."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque

from aiolimiter import AsyncLimiter

__all__ = ["Pace"]

#: The windows of the API's rate limits, in seconds.
WINDOW = 60.0
#: Shortest rest of a project that was asked too fast, in seconds.
SHORTEST_REST = 5.0
#: By how much the pace grows after each window without a refusal.
GROWTH = 1.1


class Pace:
    """Additive caution of one process for one project: the rate halves on a refusal and grows again.

    The limiter is aiolimiter's leaky bucket, one for each event loop, because its timers belong to a loop.
    """

    def __init__(self) -> None:
        self.rate: float | None = None  #: requests a minute; None: as fast as asked for
        self._calls: deque[float] = deque(maxlen=10_000)
        self._changed_at = 0.0
        self._waiting = 0
        self._limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncLimiter]
        self._limiters = weakref.WeakKeyDictionary()

    @property
    def queue(self) -> float:
        """Seconds that a new request would wait for those before it."""
        return self._waiting * WINDOW / self.rate if self.rate else 0.0

    def refused(self, *, again: bool, retry_after: float | None) -> float:
        """The API refused: seconds to rest. ``again``: while resting already, which halves nothing."""
        now = time.monotonic()
        recent = [at for at in self._calls if at > now - WINDOW]
        if not again:
            seen = float(len(recent))
            self.rate = max(1.0, (seen if self.rate is None else min(self.rate, seen)) / 2)
            self._changed_at = now
            self._limiters.clear()
        if retry_after is not None:
            return max(retry_after, 1.0)
        # the window is free again when its oldest request has left it
        return max(SHORTEST_REST, recent[0] + WINDOW - now if recent else WINDOW)

    async def acquire(self) -> None:
        """Wait for the request's turn."""
        if self.rate is None:
            return
        now = time.monotonic()
        if now - self._changed_at > WINDOW:
            self.rate *= GROWTH
            self._changed_at = now
            self._limiters.clear()
        loop = asyncio.get_running_loop()
        limiter = self._limiters.get(loop)
        if limiter is None:
            limiter = self._limiters[loop] = AsyncLimiter(max(1.0, self.rate), WINDOW)
        self._waiting += 1
        try:
            await limiter.acquire()
        finally:
            self._waiting -= 1

    def note(self) -> None:
        """A request is made now."""
        self._calls.append(time.monotonic())
