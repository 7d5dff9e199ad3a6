"""Trying again after a failure: decorators for plain and coroutine functions.

Built on tenacity: it lets the wait be taken from the error and the sleep be replaced, and logs nothing
by itself (stamina, which wraps it, logs the arguments of a retried call, and those may be keys). Its
controller is copied for each call, because tenacity's own decorator shares one dict between threads.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

import tenacity

from atlas.errors import InvalidInput, Unavailable
from atlas.logging import get_logger

__all__ = ["retry", "retry_async", "retry_unavailable"]

P = ParamSpec("P")
R = TypeVar("R")
Exceptions = type[Exception] | tuple[type[Exception], ...]

#: Longest pause between two attempts, in seconds.
LONGEST_PAUSE = 60.0

log = get_logger(__name__)


def retry_async(
    max_attempts: int = 3,
    delay: float = 1.0,
    backoff: float = 2.0,
    exceptions: Exceptions = (Exception,),
    max_delay: float = 60.0,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Decorate a coroutine function so that it is called up to ``max_attempts`` times in all.

    Between attempts it waits ``delay`` seconds, ``backoff`` times longer each time, at most
    ``max_delay``; the wait is jittered to between half and all of that. An error with a number of
    seconds in its ``retry_after`` is waited for that long at least, up to ``max_delay``. The last error
    is raised as it is. Errors other than ``exceptions`` are raised at once, and so is whatever is not an
    ``Exception``: a cancellation is never held up. Raises `InvalidInput` (a ValueError), when decorating, for
    ``max_attempts < 1`` or a negative time.
    """
    return _decorator_async(_policy(max_attempts, delay, backoff, exceptions, max_delay))


def retry(
    max_attempts: int = 3,
    delay: float = 1.0,
    backoff: float = 2.0,
    exceptions: Exceptions = (Exception,),
    max_delay: float = 60.0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """`retry_async` for plain functions; waiting blocks the thread."""
    return _decorator(_policy(max_attempts, delay, backoff, exceptions, max_delay))


def retry_unavailable(
    max_attempts: int = 5,
    max_seconds: float = 60.0,
    delay: float = 0.5,
    backoff: float = 2.0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a whole unit of work, plain or coroutine function, to be repeated while `Unavailable`.

    It gives up, raising the last error, after ``max_attempts``, or as soon as the next wait would end
    later than ``max_seconds`` after the first attempt began. The error's ``retry_after`` is honoured; one
    that does not fit in the time left ends the attempts at once. Only for work that may be repeated.
    """
    policy = _policy(max_attempts, delay, backoff, Unavailable, max_seconds)
    policy["stop"] |= tenacity.stop_before_delay(max_seconds)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):
            return cast(Callable[P, R], _decorator_async(policy)(function))
        return _decorator(policy)(function)

    return decorate


def growing_pause(
    attempt: int, *, delay: float = 1.0, backoff: float = 2.0, longest: float = LONGEST_PAUSE
) -> float:
    """Seconds to wait after the ``attempt``-th failure, jittered as in `retry_async`."""
    return float(min(longest, delay * backoff ** (attempt - 1)) * random.uniform(0.5, 1.0))


async def pause(seconds: float) -> None:
    """Wait between attempts. Looked up at each wait, so that a test can replace it."""
    await asyncio.sleep(seconds)


def block(seconds: float) -> None:
    """`pause` for plain functions."""
    time.sleep(seconds)  # a plain function's caller waits in its own thread


def _policy(
    max_attempts: int, delay: float, backoff: float, exceptions: Exceptions, max_delay: float
) -> dict[str, Any]:
    if max_attempts < 1:
        raise InvalidInput(
            f"max_attempts must be at least 1, got {max_attempts}",
            field="max_attempts",
            value=max_attempts,
        )
    if min(delay, backoff, max_delay) < 0:
        raise InvalidInput("delay, backoff and max_delay must not be negative", field="delay")
    growing = tenacity.wait_exponential(multiplier=delay, exp_base=backoff, max=max_delay)

    def again(error: BaseException) -> bool:
        return isinstance(error, Exception) and isinstance(error, exceptions)

    def wait(state: tenacity.RetryCallState) -> float:
        asked = getattr(_error(state), "retry_after", None)
        asked = min(float(asked), max_delay) if isinstance(asked, int | float) else 0.0
        return max(growing(state) * random.uniform(0.5, 1.0), asked)

    return {
        "stop": tenacity.stop_after_attempt(max_attempts),
        "wait": wait,
        "retry": tenacity.retry_if_exception(again),
        "reraise": True,
    }


def _decorator(policy: dict[str, Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if inspect.iscoroutinefunction(function):
            raise TypeError("retry is for plain functions; use retry_async")
        _refuse_generators(function)
        controller = tenacity.Retrying(
            sleep=lambda seconds: block(seconds), before_sleep=_report(function), **policy
        )

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return controller.copy()(lambda: function(*args, **kwargs))

        return call

    return decorate


def _decorator_async(
    policy: dict[str, Any],
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    def decorate(function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        _refuse_generators(function)
        controller = tenacity.AsyncRetrying(
            sleep=lambda seconds: pause(seconds), before_sleep=_report(function), **policy
        )

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            async def once() -> R:
                return await function(*args, **kwargs)

            result: R = await controller.copy()(once)
            return result

        return call

    return decorate


def _refuse_generators(function: Callable[..., object]) -> None:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError("a generator fails while it is consumed, where a retry cannot see it")


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _report(function: Callable[..., object]) -> Callable[[tenacity.RetryCallState], None]:
    def report(state: tenacity.RetryCallState) -> None:
        # neither arguments nor the error's text: both may hold a key
        log.info(
            "retrying",
            function=_name(function),
            attempt=state.attempt_number,
            wait_seconds=round(state.next_action.sleep if state.next_action else 0.0, 3),
            error=type(_error(state)).__name__,
        )

    return report
