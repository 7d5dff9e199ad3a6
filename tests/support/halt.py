"""Stopping a method in the middle, and waiting for what tasks beside bring about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest


async def until(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for what a task beside brings about."""
    async with asyncio.timeout(20):
        while True:
            found = holds()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


class Halt:
    """Stops a method after it did its work (or before), until it may return."""

    def __init__(
        self, patch: pytest.MonkeyPatch, of: type, method: str, *, before: bool = False
    ) -> None:
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.calls = 0
        original = getattr(of, method)

        async def halting(repository: Any, *arguments: Any) -> Any:
            self.calls += 1
            answer = None if before else await original(repository, *arguments)
            self.reached.set()
            await self.may_go_on.wait()
            return await original(repository, *arguments) if before else answer

        patch.setattr(of, method, halting)
