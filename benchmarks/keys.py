"""What keys cost and hold: CPU of a request, spread of a rest, outages, rate limits, weeks with kills.

Times are simulated where days matter: the clock goes into the accounts and, as ``at``, into every statement.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from atlas import retry
from atlas.config import ApiKey, QuotaBucket, reset_settings
from atlas.db import Database
from atlas.errors import QuotaExhausted
from atlas.keys import Accounts, HydraExecutor, KeyRing, pace
from atlas.keys.accounting.sharing import Sharing
from benchmarks.support import Result
from tests.support.servers.quota_api import QuotaAPI, raise_as_agents_do

#: Simulated seconds in a real one, where a run is timed.
SPEED = 20.0
#: Simulated seconds that one call of the simulated weeks takes.
CALL_SECONDS = 0.05
#: Real seconds that a pause of theirs takes, and requests of one holder that may be given up in a day.
PAUSE_SECONDS, MOST_GIVEN_UP = 0.02, 20


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
        url = database._url  # the same database, over connections of its own
        self.sharing = Sharing(self.accounts, Database(url, pool_size=1, max_overflow=2), at=clock)
        ring = KeyRing("bench", keys, accounts=self.accounts)
        self.executor = HydraExecutor(ring, "bench", on_exhausted="raise")

    async def kill(self) -> None:
        async def nothing(everything: bool) -> None:
            return None

        self.sharing._step = nothing  # type: ignore[method-assign]  # the dead settle nothing
        await self.close()

    async def close(self) -> None:
        await asyncio.to_thread(self.sharing.close)


@contextlib.contextmanager
def simulated(advance: Callable[[float], Any]) -> Iterator[None]:
    """Let pauses of the executor pass by ``advance``."""
    real, variable = retry.pause, "HYDRA_MAX_WAIT_SECONDS"
    retry.pause = advance  # type: ignore[assignment]
    try:
        yield
    finally:
        retry.pause = real
        os.environ.pop(variable, None)
        reset_settings()


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """Every figure of keys."""
    return [
        *await _cpu(),
        *await _cpu_shared(database),
        await _spread(database),
        await _at_the_head(),
        *await _outage(database),
        *await _per_minute(database),
        *await _weeks(database),
    ]


def _most(what: str, value: float, most: float, unit: str) -> Result:
    return Result(what, value, "at most", most, unit, goal=1.0, most=True)


async def _nothing(key: str) -> dict[str, Any]:
    return {}


async def _cpu() -> list[Result]:
    results = []
    for count in (6, 200):
        ring = KeyRing("bench", members(count, max(3, count // 2)), accounts=Accounts())
        executor = HydraExecutor(ring)
        times = []
        for _ in range(7):
            begun = time.process_time()
            for _ in range(3_000):
                await executor.execute_async(_nothing)
            times.append((time.process_time() - begun) / 3_000)
        us = statistics.median(times) * 1e6
        results.append(_most(f"no-op request, {count} keys, in memory", us, 50, "µs of CPU"))
    return results


async def _cpu_shared(database: Database) -> list[Result]:
    limits = {"general": 1_000_000, "search": 100}
    holder = Holder(database, members(6, 3), limits)
    await holder.executor.execute_async(_nothing)
    begun = time.process_time()
    for _ in range(10_000):
        await holder.executor.execute_async(_nothing)
    each = (time.process_time() - begun) / 10_000 * 1e3
    bursts = []
    for _ in range(5):
        begun = time.process_time()
        await asyncio.gather(*(holder.executor.execute_async(_nothing) for _ in range(1_000)))
        bursts.append((time.process_time() - begun) * 1e3)
    await holder.close()
    return [
        _most("no-op request with shared accounting", each, 0.3, "ms of CPU"),
        _most("1,000 requests at once, shared", statistics.median(bursts), 100, "ms of CPU"),
    ]


async def _spread(database: Database) -> Result:
    keys, limits = members(6, 3), {"general": 10_000}
    one, two = Holder(database, keys, limits), Holder(database, keys, limits)
    for holder in (one, two):
        await holder.executor.execute_async(_nothing)
    worst = 0.0
    for round_ in range(10):
        await asyncio.sleep(0.13)
        until = datetime.now(UTC) + timedelta(hours=1, seconds=round_)
        begun = time.perf_counter()
        one.accounts.rest(keys[0], until)
        # learnt in another thread
        while two.accounts.usable_at(keys[0]) != until:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        worst = max(worst, time.perf_counter() - begun)
    await one.close()
    await two.close()
    return _most("a rest reaches another process, longest of 10", worst, 1.1, "s")


async def _at_the_head() -> Result:
    keys = members(3, 3)
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, {"general": 10_000})
    api.restricted = {keys[0].get_secret_value()}
    executor = HydraExecutor(KeyRing("bench", keys, accounts=Accounts()))
    raised = 0
    for _ in range(100):
        try:
            await executor.execute_async(_request(api, "videos"))
        except Exception:
            raised += 1
    return _most("a restricted key at the head: requests that raised, of 100", raised, 1e-9, "")


def _request(api: QuotaAPI, method: str, seconds: float = 0.0) -> Callable[[str], Any]:
    async def request(key: str) -> Any:
        await asyncio.sleep(seconds)
        return raise_as_agents_do(api.answer(method, key))

    return request


async def _outage(database: Database) -> list[Result]:
    """Ten minutes of outage at 20 times the speed, 8 holders of 20 tasks."""
    begun = time.monotonic()
    start = datetime(2026, 7, 1, 19, tzinfo=UTC)

    def clock() -> datetime:
        return start + timedelta(seconds=(time.monotonic() - begun) * SPEED)

    keys, limits = members(6, 3), {"general": 1_000_000}
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, limits, clock=clock)
    holders = [Holder(database, keys, limits, clock=clock) for _ in range(8)]
    over = asyncio.Event()
    answers = 0

    async def task(holder: Holder) -> None:
        nonlocal answers
        while not over.is_set():
            answer = await holder.executor.execute_async(_request(api, "videos", 0.05))
            answers += answer is not None

    with simulated(lambda seconds: asyncio.sleep(seconds / SPEED)):
        tasks = [asyncio.create_task(task(holder)) for holder in holders for _ in range(20)]
        await asyncio.sleep(2)
        api.outage = True
        await asyncio.sleep(0.3)  # what was in flight, and the first attempts
        opened = api.down
        await asyncio.sleep(600 / SPEED)
        after = api.down - opened
        api.outage, before = False, answers
        await asyncio.sleep(90 / SPEED)
        over.set()
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for holder in holders:
        await holder.close()
    return [
        _most("calls in 10 minutes of outage, 8 x 20 tasks", after, 150, "calls"),
        Result("answers within 90 s after the outage", answers - before, "at least", 1, "", goal=1),
    ]


async def _per_minute(database: Database) -> list[Result]:
    """Sixty a minute and project, 20 minutes of 3 s each, 4 holders of 5 tasks."""
    minute, minutes = 3.0, 20
    keys, limits = members(3, 3), {"general": 1_000_000}
    api = QuotaAPI(
        {key.get_secret_value(): str(key.project) for key in keys},
        limits,
        per_minute=60,
        monotonic=lambda: time.monotonic() * 60 / minute,
    )
    os.environ["HYDRA_MAX_WAIT_SECONDS"] = str(150 * minute / 60)
    reset_settings()
    window, shortest = pace.WINDOW, pace.SHORTEST_REST
    pace.WINDOW, pace.SHORTEST_REST = minute, 5 * minute / 60
    holders = [Holder(database, keys, limits) for _ in range(4)]
    over = time.monotonic() + minute * minutes
    gave_up = done = 0

    async def task(holder: Holder) -> None:
        nonlocal gave_up, done
        while time.monotonic() < over:
            answer = await holder.executor.execute_async(_request(api, "videos", 0.01))
            gave_up += answer is None
            done += answer is not None

    try:
        with simulated(asyncio.sleep):
            await asyncio.gather(*(task(holder) for holder in holders for _ in range(5)))
    finally:
        pace.WINDOW, pace.SHORTEST_REST = window, shortest
    for holder in holders:
        await holder.close()
    refused = sum(api.too_fast.values())
    most = 60 * 3 * minutes
    return [
        _most("60 a minute: requests that gave None", gave_up, 1e-9, ""),
        _most("60 a minute: refusals of all calls", 100 * refused / (refused + done), 5, "%"),
        Result("60 a minute: share of what was allowed", 100 * done / most, "of", 100, "%"),
    ]


async def _weeks(database: Database) -> list[Result]:
    """Days on both sides of both clock changes, 8 holders, two of them killed each day."""
    now = datetime(2026, 10, 30, 19, tzinfo=UTC)

    def clock() -> datetime:
        return now

    async def advance(seconds: float) -> None:
        nonlocal now
        now += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    async def pause(seconds: float) -> None:
        # who waits for units of others must not outrun the database: the day would end meanwhile
        await advance(seconds)
        await asyncio.sleep(PAUSE_SECONDS)

    keys, limits = members(6, 3), {"general": 300, "search": 30}
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, limits, clock=clock)

    def request(method: str) -> Callable[[str], Any]:
        async def ask(key: str) -> Any:
            await advance(CALL_SECONDS)
            return raise_as_agents_do(api.answer(method, key))

        return ask

    async def exhaust(holder: Holder, method: str, bucket: str, most: int = 10**9) -> None:
        given_up = 0
        with contextlib.suppress(QuotaExhausted):
            for _ in range(most):
                answer = await holder.executor.execute_async(request(method), bucket=bucket)
                given_up += answer is None
                assert given_up <= MOST_GIVEN_UP, "units stay leased: the database is too slow"

    starts = [datetime(2026, 10, 30, 19, tzinfo=UTC), datetime(2027, 3, 12, 20, tzinfo=UTC)]
    worst = again = missing = unaccounted = days = 0
    with simulated(pause):
        for start in starts:
            now = start
            for _ in range(4):
                days += 1
                holders = [Holder(database, keys, limits, clock=clock) for _ in range(8)]
                # two are killed while they hold units that they used
                await asyncio.gather(
                    *(exhaust(holder, "videos", "general", 37) for holder in holders[:2])
                )
                for holder in holders[:2]:
                    await holder.kill()
                await asyncio.gather(
                    *(exhaust(holder, "search", "search") for holder in holders[2:])
                )
                await asyncio.gather(
                    *(exhaust(holder, "videos", "general") for holder in holders[2:])
                )
                for holder in holders[2:]:
                    await holder.close()
                today = clock().astimezone(pacific()).date().isoformat()
                refused = sum(n for (_, _, day), n in api.refused.items() if day == today)
                used = sum(n for (_, _, day), n in api.accepted.items() if day == today)
                worst = max(worst, refused)
                missing += 3 * sum(limits.values()) - used
                async with database.transaction(read_only=True) as session:
                    counted = await session.scalar(
                        text("SELECT sum(spent + external) FROM api_quota_usage WHERE day = :day"),
                        {"day": datetime.fromisoformat(today).date()},
                    )
                unaccounted += abs(used - int(counted or 0))
                # restart: always, all of them at once
                holders = [Holder(database, keys, limits, clock=clock) for _ in range(8)]
                for method, bucket in (("search", "search"), ("videos", "general")):
                    await asyncio.gather(*(exhaust(one, method, bucket) for one in holders))
                for holder in holders:
                    await holder.close()
                again += sum(n for (_, _, d), n in api.refused.items() if d == today) - refused
                tomorrow = clock().astimezone(pacific()).date() + timedelta(days=1)
                now = datetime.combine(tomorrow, datetime.min.time(), pacific()).astimezone(UTC)
                now += timedelta(seconds=5)
    return [
        _most(
            f"{days} days, 8 processes, kills: refused calls a day (6 buckets)", worst, 6 * 6, ""
        ),
        _most("refused calls after restarts", again, 1e-9, ""),
        _most("units that were not used", missing, 1e-9, ""),
        _most("units that the database does not account for", unaccounted, 1e-9, ""),
    ]


def pacific() -> Any:
    from atlas.keys.youtube import pacific

    return pacific()
