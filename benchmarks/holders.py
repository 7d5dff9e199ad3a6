"""What the measurements of keys share: holders of quota in one process, and requests to an API."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from atlas import retry
from atlas.config import ApiKey, QuotaBucket, reset_settings
from atlas.db import Database
from atlas.events import bus_of
from atlas.keys import Accounts, HydraExecutor, KeyRing
from atlas.keys.accounting.sharing import Sharing
from benchmarks.support import Result
from tests.support.servers.quota_api import QuotaAPI, raise_as_agents_do


def members(keys: int, projects: int) -> list[ApiKey]:
    return [ApiKey(f"AIzaSyBench{n:028d}", f"project-{n % projects}") for n in range(keys)]


class Holder:
    """What a process of its own would be; ``kill`` ends it as SIGKILL does."""

    def __init__(
        self,
        database: Database,
        keys: list[ApiKey],
        limits: dict[str, int],
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        buckets = {name: QuotaBucket(limit) for name, limit in limits.items()}
        self.accounts = (
            Accounts(buckets=buckets) if clock is None else Accounts(clock, buckets=buckets)
        )
        # the same database, over connections of its own
        self.database = Database(database._url, pool_size=1, max_overflow=2)
        self.sharing = Sharing(self.accounts, self.database, at=clock)
        ring = KeyRing("bench", keys, accounts=self.accounts)
        self.executor = HydraExecutor(ring, "bench", on_exhausted="raise")

    async def kill(self) -> None:
        async def nothing(everything: bool) -> None:
            return None

        self.sharing._step = nothing  # type: ignore[method-assign]  # the dead settle nothing
        await self.close()

    async def close(self) -> None:
        await asyncio.to_thread(self.sharing.close)
        # events went out in this loop, where a process's own end would have closed what they opened
        await bus_of(self.database).drain()
        await self.database.close()


@contextlib.contextmanager
def simulated(advance: Callable[[float], Any]) -> Iterator[None]:
    """Let pauses of the executor pass by ``advance``."""
    real, variable = retry.pause, "HYDRA_MAX_WAIT_SECONDS"
    retry.pause = advance  # type: ignore[assignment]  # the clock is simulated
    try:
        yield
    finally:
        retry.pause = real
        os.environ.pop(variable, None)
        reset_settings()


def bounded(what: str, value: float, most: float, unit: str) -> Result:
    return Result(what, value, "at most", most, unit, goal=1.0, most=True)


def request_to(api: QuotaAPI, method: str, seconds: float = 0.0) -> Callable[[str], Any]:
    async def request(key: str) -> Any:
        await asyncio.sleep(seconds)
        return raise_as_agents_do(api.answer(method, key))

    return request
