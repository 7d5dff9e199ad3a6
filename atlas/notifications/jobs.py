"""What Atlas's own jobs fail with, tracked like any other error.

Refusals that were foreseen are none: another archiver is at work, a lease was lost, the caller's input is
wrong, the quota is spent (which has a notification of its own). Outages are warnings.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from atlas.errors import Conflict, InvalidInput, NotFound, QuotaExhausted, Unavailable
from atlas.notifications.discord import notifier
from atlas.types import AlertLevel

__all__ = ["note", "tracked"]

P = ParamSpec("P")
T = TypeVar("T")
Call = Callable[P, Coroutine[Any, Any, T]]

_FORESEEN = (Conflict, InvalidInput, NotFound, QuotaExhausted)


def note(error: Exception, job: str, /, **facts: object) -> None:
    """Track an error of ``job``, where there is a database or a webhook for it. Never raises or waits."""
    if isinstance(error, _FORESEEN):
        return
    # settings that cannot be read are reported by the code that needs them
    with contextlib.suppress(Exception):
        if notifier.is_configured:
            level = AlertLevel.WARNING if isinstance(error, Unavailable) else AlertLevel.CRITICAL
            notifier.capture(error, {"job": job, **facts}, level=level)


def tracked(job: str) -> Callable[[Call[P, T]], Call[P, T]]:
    """Decorate an async function: what it raises is noted, and raised."""

    def decorate(function: Call[P, T]) -> Call[P, T]:
        @functools.wraps(function)
        async def noting(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await function(*args, **kwargs)
            except Exception as error:
                note(error, job, call=function.__name__)
                raise

        return noting

    return decorate
