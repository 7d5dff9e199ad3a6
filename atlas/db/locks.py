"""Trying again what gave way to somebody else's lock."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import tenacity

from atlas.errors import DatabaseError

P = ParamSpec("P")
T = TypeVar("T")

#: lock_not_available, deadlock_detected, serialization_failure.
_GAVE_WAY = frozenset({"55P03", "40P01", "40001"})


def gave_way(error: BaseException) -> bool:
    """Whether a transaction failed only because another one was in its way."""
    return isinstance(error, DatabaseError) and error.sqlstate in _GAVE_WAY


def retry_when_locked(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Repeat a whole unit of work (an async function that opens its own transaction) while it gives
    way to others' locks, for up to a minute with growing, jittered pauses; then raise its last error.
    """

    @functools.wraps(work)
    async def again(*args: P.args, **kwargs: P.kwargs) -> T:
        # a controller of its own for each call: it keeps state that calls in other threads would share
        controller = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(gave_way),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=2.0),
            stop=tenacity.stop_after_delay(60),
            reraise=True,
        )
        return await controller(work, *args, **kwargs)

    return again
