"""Whole days of quota: simulated ones over both clock changes, and one of processes that are killed.

Simulated time goes into the accounts and, as ``at``, into every statement. The processes are real: agents as
the platform's own, which name no bucket, raise plain exceptions, and ask over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text

from atlas.db import Database
from atlas.errors import QuotaExhausted
from atlas.keys.youtube import pacific
from benchmarks.holders import Holder, bounded, members, simulated
from benchmarks.support import Result
from tests.support.servers.http import loopback_server
from tests.support.servers.quota_api import QuotaAPI, raise_as_agents_do

#: What Google grants a project a day.
LIMITS = {"general": 10_000, "search": 100}
#: Simulated seconds that one call takes.
CALL_SECONDS = 0.05
#: Real seconds that a simulated pause takes, and requests of one holder that may be given up in a day.
PAUSE_SECONDS, MOST_GIVEN_UP = 0.02, 20
#: An agent as a process, and how many calls it makes at once.
CHILD, TASKS = "tests.support.children.keys_child", 2


async def weeks(database: Database) -> list[Result]:
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

    keys = members(6, 3)
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, LIMITS, clock=clock)

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

    @contextlib.asynccontextmanager
    async def started(count: int) -> AsyncIterator[list[Holder]]:
        holders = [Holder(database, keys, LIMITS, clock=clock) for _ in range(count)]
        yield holders
        for holder in holders:
            await holder.close()

    async def exhaust_both(holders: list[Holder]) -> None:
        for method, bucket in (("search", "search"), ("videos", "general")):
            await asyncio.gather(*(exhaust(holder, method, bucket) for holder in holders))

    def moved(counts: dict[tuple[str, str, str], int], day: str) -> int:
        return sum(units for (_, _, one), units in counts.items() if one == day)

    starts = [datetime(2026, 10, 30, 19, tzinfo=UTC), datetime(2027, 3, 12, 20, tzinfo=UTC)]
    worst = again = missing = unaccounted = days = 0
    with simulated(pause):
        for start in starts:
            now = start
            for _ in range(4):
                days += 1
                async with started(8) as holders:
                    # two are killed while they hold units that they used
                    doomed, others = holders[:2], holders[2:]
                    await asyncio.gather(
                        *(exhaust(one, "videos", "general", 371) for one in doomed)
                    )
                    for one in doomed:
                        await one.kill()
                    await exhaust_both(others)
                today = clock().astimezone(pacific()).date()
                refused = moved(api.refused, str(today))
                used = moved(api.accepted, str(today))
                worst = max(worst, refused)
                missing += 3 * sum(LIMITS.values()) - used
                unaccounted += abs(used - await _counted(database, today))
                async with started(8) as holders:  # restart: always, all of them at once
                    await exhaust_both(holders)
                again += moved(api.refused, str(today)) - refused
                tomorrow = datetime.combine(
                    today + timedelta(days=1), datetime.min.time(), pacific()
                )
                now = tomorrow.astimezone(UTC) + timedelta(seconds=5)
    return [
        bounded(f"{days} days, 8 holders, kills: refused calls a day (6 buckets)", worst, 36, ""),
        bounded("refused calls after restarts", again, 1e-9, ""),
        bounded(f"units that were not used, of {days} x 30,300", missing, 1e-9, ""),
        bounded("units that the database does not account for", unaccounted, 1e-9, ""),
    ]


async def _counted(database: Database, day: date | None = None) -> int:
    """Units that the database accounts for, of one day or of all."""
    statement = "SELECT sum(spent + external) FROM api_quota_usage WHERE coalesce(day = :day, true)"
    async with database.transaction(read_only=True) as session:
        return int(await session.scalar(text(statement), {"day": day}) or 0)


async def processes(database: Database) -> list[Result]:
    """A day of real processes: 8 spend the searches, 8 the rest, two of which are killed; 8 start again."""
    keys = members(6, 3)
    api = QuotaAPI({key.get_secret_value(): str(key.project) for key in keys}, LIMITS)
    pool = [{"key": key.get_secret_value(), "project": key.project} for key in keys]
    environment = {
        **os.environ,
        "DATABASE_URL": str(database._url),
        "YOUTUBE_API_KEY_POOL_JSON": json.dumps(pool),
        "COMPLIANCE_MODE": "false",
        "KEY_POOL_ARCHEOLOGY_SIZE": "0",
        "KEY_POOL_TRACKING_SIZE": "0",
        "LOG_LEVEL": "ERROR",
    }
    with loopback_server() as server:
        api.serve(server)

        async def run(*methods: str, killed: int = 0) -> int:
            """Eight processes to their end; how many of them ended with another code than 0."""
            command = [sys.executable, "-m", CHILD, server.url]
            ran = await asyncio.gather(
                *(
                    _start([*command, methods[n % len(methods)], str(TASKS)], environment)
                    for n in range(8)
                )
            )
            for one in ran:
                assert one.stdin is not None
                one.stdin.close()
            for one in ran[:killed]:
                await _answers(one, 100)
                one.kill()
            await asyncio.gather(*(one.communicate() for one in ran))
            return sum(one.returncode != 0 for one in ran[killed:])

        failed = await run("search")
        searches = sum(api.accepted.values())
        failed += await run("videos", killed=2)
        general = sum(api.accepted.values()) - searches
        refused = sum(api.refused.values())
        counted = await _counted(database)
        failed += await run("search", "videos")
    again = sum(api.refused.values()) - refused
    return [
        Result("searches of 8 processes", searches, "of", 3 * LIMITS["search"], "", 1.0),
        Result("search spent: general units used", general, "of", 3 * LIMITS["general"], "", 1.0),
        # what may be in flight as the last unit goes
        bounded("8 processes, 2 killed: refused calls", refused, 6 * 8 * TASKS, ""),
        bounded("8 processes started again at once: refused calls", again, 1e-9, ""),
        bounded(
            "units that the database does not account for",
            abs(searches + general - counted),
            1e-9,
            "",
        ),
        bounded("processes that did not end with code 0, of 22", failed, 1e-9, ""),
    ]


async def _start(command: list[str], environment: dict[str, str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdin=pipe, stdout=pipe
    )
    await _answers(process, 1)
    return process


async def _answers(process: asyncio.subprocess.Process, count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        await process.stdout.readline()
