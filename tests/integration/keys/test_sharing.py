"""What one process learns of keys, others know: with real PostgreSQL and an API that keeps quotas."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from atlas.config import ApiKey, QuotaBucket
from atlas.db import Database
from atlas.errors import ConfigurationError, DatabaseUnavailable, QuotaExhausted
from atlas.keys import Accounts, HydraExecutor, KeyRing
from atlas.keys.accounting import sharing
from atlas.keys.accounting.sharing import Sharing
from tests.support.servers.quota_api import QuotaAPI, raise_as_agents_do
from tests.support.sql import fetch

KEYS = [f"AIzaSyFakeFakeFakeFakeFakeFakeFakeShare{n}" for n in range(6)]
#: Two keys of each of three projects.
MEMBERS = [ApiKey(key, f"project-{n // 2}") for n, key in enumerate(KEYS)]
PROJECTS = {member.get_secret_value(): str(member.project) for member in MEMBERS}
LIMITS = {"general": 60, "search": 10}
BUCKETS = {name: QuotaBucket(limit) for name, limit in LIMITS.items()}


class Process:
    """What a process of its own would be: accounts, a sharing in a thread, an executor."""

    def __init__(self, url: str, api: QuotaAPI) -> None:
        self.accounts = Accounts(buckets=BUCKETS)
        self.sharing = Sharing(self.accounts, Database(url, pool_size=1, max_overflow=2))
        self.api = api
        ring = KeyRing("hunting", MEMBERS, accounts=self.accounts)
        self.executor = HydraExecutor(ring, "agent", on_exhausted="raise")

    async def call(self, method: str = "videos", **options: Any) -> Any:
        async def request(key: str) -> Any:
            await asyncio.sleep(0.001)
            return raise_as_agents_do(self.api.answer(method, key))

        return await self.executor.execute_async(request, **options)

    async def exhaust(self, method: str = "videos", **options: Any) -> int:
        """Call until nothing is left; the number of answers."""
        answers = 0
        with pytest.raises(QuotaExhausted):
            while await self.call(method, **options):
                answers += 1
        return answers


Start = Callable[[], Process]


@pytest.fixture
def api() -> QuotaAPI:
    return QuotaAPI(PROJECTS, LIMITS)


@pytest.fixture
async def start(database_url: str, api: QuotaAPI) -> AsyncIterator[Start]:
    """Starts processes, and ends them as a clean exit does."""
    started: list[Process] = []

    def make() -> Process:
        started.append(Process(database_url, api))
        return started[-1]

    yield make
    for one in started:
        await asyncio.to_thread(one.sharing.close)


async def usage(database: Database) -> dict[tuple[str, str], tuple[int, int]]:
    rows = await fetch(database, "SELECT project, bucket, spent, external FROM api_quota_usage")
    return {(row["project"], row["bucket"]): (row["spent"], row["external"]) for row in rows}


async def test_processes_use_every_unit_and_a_restart_sends_no_refused_call(
    database: Database, start: Start, api: QuotaAPI
) -> None:
    processes = [start() for _ in range(3)]
    answers = await asyncio.gather(*(process.exhaust() for process in processes))
    assert sum(answers) == 180
    assert sum(api.accepted.values()) == 180
    refused = sum(api.refused.values())
    assert refused <= 9  # one a process and project, in flight as the last unit went
    for process in processes:
        await asyncio.to_thread(process.sharing.close)
    assert await usage(database) == {(f"project-{n}", "general"): (60, 0) for n in range(3)}

    again = start()
    with pytest.raises(QuotaExhausted) as caught:
        await again.call()
    assert caught.value.retry_at is not None and caught.value.retry_at > datetime.now(UTC)
    assert sum(api.refused.values()) == refused


async def test_a_spent_search_bucket_leaves_every_other_unit(
    database: Database, start: Start, api: QuotaAPI
) -> None:
    one, two = start(), start()
    assert await one.exhaust("search", bucket="search") == 30
    assert await two.exhaust("videos") == 180
    with pytest.raises(QuotaExhausted):
        await two.call("search", bucket="search")
    assert sum(n for (_, bucket, _), n in api.refused.items() if bucket == "search") == 3


async def test_unlabelled_searches_end_without_a_refused_call_after_a_restart(
    start: Start, api: QuotaAPI
) -> None:
    one = start()
    assert await one.exhaust("search") == 30
    assert sum(api.refused.values()) <= 3
    await asyncio.to_thread(one.sharing.close)
    before = sum(api.refused.values())
    two = start()
    assert await two.exhaust("search") == 0
    assert sum(api.refused.values()) == before


async def test_what_a_killed_process_had_leased_is_used_by_others_and_its_units_are_external(
    database: Database, start: Start, api: QuotaAPI
) -> None:
    killed = start()
    for _ in range(5):
        await killed.call()
    # as a kill does: no settlement, no return
    killed.sharing._step = asyncio.sleep  # type: ignore[method-assign,assignment]
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE api_quota_usage SET leases = '{}', spent = 0")
        )  # a minute later
    other = start()
    assert await other.exhaust() == 175
    await asyncio.to_thread(other.sharing.close)
    counted = await usage(database)
    assert sum(spent + external for spent, external in counted.values()) == 180
    assert sum(external for _, external in counted.values()) == 5


async def test_a_restricted_key_at_the_head_fails_nothing_anywhere(
    start: Start, api: QuotaAPI
) -> None:
    api.restricted = {KEYS[0]}
    one = start()
    assert all([await one.call() for _ in range(10)])
    await asyncio.sleep(0)
    await one.sharing.flush()
    two = start()
    assert all([await two.call() for _ in range(10)])
    assert api.restricted_calls == 1


async def test_a_rest_reaches_another_process_in_a_second(start: Start) -> None:
    one, two = start(), start()
    await asyncio.gather(one.call(), two.call())
    one.accounts.rest(MEMBERS[2], datetime.now(UTC) + timedelta(hours=1))
    async with asyncio.timeout(60):  # the benchmark prints how long it takes
        while two.accounts.is_usable(MEMBERS[3]):  # noqa: ASYNC110  # learnt in another thread
            await asyncio.sleep(0.01)


async def test_without_the_tables_each_process_goes_on_from_memory(
    empty_database_url: str, api: QuotaAPI
) -> None:
    process = Process(empty_database_url, api)
    assert await process.exhaust() == 180
    assert sum(api.refused.values()) == 3
    await asyncio.to_thread(process.sharing.close)


class ComingUp:
    """A database that refuses the first connections, as one does that is started beside its clients."""

    def __init__(self, database: Database, refusals: int) -> None:
        self._database, self.refusals = database, refusals

    def autocommit(self) -> Any:
        self.refusals -= 1
        if self.refusals >= 0:
            raise DatabaseUnavailable("the database system is starting up")
        return self._database.autocommit()

    async def close(self) -> None:
        await self._database.close()


async def test_a_process_that_begins_before_its_database_waits_for_what_rests(
    start: Start, api: QuotaAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "START_PATIENCE", 60.0)
    first = start()
    await first.exhaust()
    await first.sharing.flush()
    refused = sum(api.refused.values())
    second = start()
    database: Any = ComingUp(second.sharing._database, 3)
    second.sharing._database = database
    answers = await asyncio.gather(*(second.exhaust() for _ in range(5)))
    assert answers == [0] * 5
    assert database.refusals < 0
    assert sum(api.refused.values()) == refused


async def test_a_process_whose_database_does_not_come_goes_on_from_memory(
    start: Start, api: QuotaAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "START_PATIENCE", 0.3)
    process = start()
    database: Any = ComingUp(process.sharing._database, 10**9)
    process.sharing._database = database
    assert await process.exhaust() == 180
    assert database.refusals < 10**9 - 1
    assert process.sharing.away


async def test_what_was_learnt_while_the_database_was_away_is_told_when_it_is_back(
    database: Database, start: Start, api: QuotaAPI
) -> None:
    process = start()
    await process.call()
    whole, process.sharing._database = process.sharing._database, Database(
        "postgresql://nobody@127.0.0.1:1/none"
    )
    await process.sharing.flush()
    assert process.sharing.away
    assert await process.exhaust() == 179
    process.sharing._database = whole
    await process.sharing.flush()
    assert not process.sharing.away
    assert {spent for spent, _ in (await usage(database)).values()} == {60}
    assert await start().exhaust() == 0


async def test_no_key_is_in_the_database(
    database: Database, start: Start, api: QuotaAPI, postgres_server: Any, database_url: str
) -> None:
    api.restricted = {KEYS[0]}
    process = start()
    await process.exhaust()
    await process.exhaust("search")
    await process.sharing.flush()
    dump = postgres_server.pg_dump(database_url, "--data-only")
    assert "project-1" in dump
    assert not [key for key in KEYS if key in dump or key[-8:] in dump]


async def test_only_disabled_keys_are_a_wrong_configuration_in_every_process(
    start: Start, api: QuotaAPI
) -> None:
    api.restricted = set(KEYS)
    one = start()
    with pytest.raises(ConfigurationError, match="atlas keys test"):
        await one.call()
    await one.sharing.flush()
    with pytest.raises(ConfigurationError):
        await start().call()
    assert api.restricted_calls == 6
