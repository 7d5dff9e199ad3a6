"""Keys that are none, and a clock that tests of them move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from atlas.keys import HydraExecutor

A, B, C = (f"AIzaSyFakeFakeFakeFakeFakeFakeFakeKey-{letter}" for letter in "abc")
NOON = datetime(2026, 7, 1, 19, tzinfo=UTC)  # noon in Los Angeles
RESET = datetime(2026, 7, 2, 7, tzinfo=UTC)

#: Makes an executor over keys.
Make = Callable[..., HydraExecutor]


class Clock:
    """Stands still until it is moved, or the code under test waits."""

    def __init__(self, time: datetime = NOON) -> None:
        self.time = time
        self.waits: list[float] = []

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        """Time goes on."""
        self.time += timedelta(**by)

    async def pause(self, seconds: float) -> None:
        """In place of sleeping."""
        self.waits.append(seconds)
        self.advance(seconds=seconds)
