"""What keys cost and hold: CPU of a request, spread of a rest, outages, rate limits, weeks with kills.

Times are simulated where days matter: the clock goes into the accounts and, as ``at``, into every statement.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from atlas.config import reset_settings
from atlas.db import Database
from atlas.keys import Accounts, HydraExecutor, KeyRing, pace
from benchmarks import quota
from benchmarks.holders import Holder, bounded, members, request_to, simulated
from benchmarks.support import Result
from tests.support.servers.quota_api import QuotaAPI

#: Simulated seconds in a real one, where a run is timed.
SPEED = 20.0


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """Every figure of keys."""
    results = [*await _cpu(), await _at_the_head()]
    for part in (_cpu_shared, _spread, _outage, _per_minute, quota.weeks, quota.processes):
        results += await part(database)
        async with database.transaction() as session:  # each has a time of its own
            await session.execute(
                text("TRUNCATE api_key_rests, api_quota_usage, api_breakers, api_key_notices")
            )
    return results


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
        results.append(bounded(f"no-op request, {count} keys, in memory", us, 50, "µs of CPU"))
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
        bounded("no-op request with shared accounting", each, 0.3, "ms of CPU"),
        bounded("1,000 requests at once, shared", statistics.median(bursts), 100, "ms of CPU"),
    ]


async def _spread(database: Database) -> list[Result]:
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
    return [bounded("a rest reaches another process, longest of 10", worst, 1.1, "s")]


async def _at_the_head() -> Result:
    keys = members(3, 3)
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, {"general": 10_000})
    api.restricted = {keys[0].get_secret_value()}
    executor = HydraExecutor(KeyRing("bench", keys, accounts=Accounts()))
    raised = 0
    for _ in range(100):
        try:
            await executor.execute_async(request_to(api, "videos"))
        except Exception:
            raised += 1
    return bounded("a restricted key at the head: requests that raised, of 100", raised, 1e-9, "")


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
            answer = await holder.executor.execute_async(request_to(api, "videos", 0.05))
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
        bounded("calls in 10 minutes of outage, 8 x 20 tasks", after, 150, "calls"),
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
            answer = await holder.executor.execute_async(request_to(api, "videos", 0.01))
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
        bounded("60 a minute: requests that gave None", gave_up, 1e-9, ""),
        bounded("60 a minute: refusals of all calls", 100 * refused / (refused + done), 5, "%"),
        Result("60 a minute: share of what was allowed", 100 * done / most, "of", 100, "%"),
    ]
