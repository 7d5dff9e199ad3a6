"""Keys that are spent or dead, and the one that answers instead."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from atlas.config import ApiKey
from atlas.errors import ConfigurationError, InvalidInput, QuotaExhausted
from atlas.keys import HydraExecutor, KeyRing, execute_youtube_request_async
from tests.support import refusals
from tests.support.keys import RESET, A, B, C, Clock, Make
from tests.support.servers.http import Reply
from tests.support.servers.youtube import DEAD, GOOD, NOT_ENABLED, SPENT, YouTube


async def test_a_good_answer_is_returned_and_counted(youtube: YouTube, make: Make) -> None:
    executor = make(A, B)
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert [status.uses for status in executor.key_ring.status()] == [1, 0]


async def test_a_spent_key_rests_until_the_reset_and_the_next_answers(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, SPENT, GOOD)
    executor = make(A, B)
    for _ in range(3):
        assert await executor.execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, B, B, B]
    assert executor.key_ring.status()[0].resting_until == RESET
    assert clock.waits == []

    clock.time = RESET
    executor.key_ring.disable(B)
    await executor.execute_async(youtube.search)
    assert youtube.asked[-1] == A


async def test_a_spent_project_rests_with_all_its_keys(youtube: YouTube, make: Make) -> None:
    youtube.script(A, SPENT)
    executor = make(ApiKey(A, "p"), ApiKey(B, "p"), ApiKey(C, "q"))
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, C]


async def test_all_spent_ends_the_process_cleanly(youtube: YouTube, make: Make) -> None:
    for key in (A, B):
        youtube.script(key, SPENT)
    executor = make(A, B, on_exhausted="exit")
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            await executor.execute_async(youtube.search)
        assert caught.value.code == 0
    assert youtube.asked == [A, B]  # the second call knew without asking


async def test_all_spent_raises_instead_where_asked_to(youtube: YouTube, make: Make) -> None:
    for key in (A, B):
        youtube.script(key, SPENT)
    with pytest.raises(QuotaExhausted, match="2026-07-02T07:00:00") as caught:
        await make(A, B).execute_async(youtube.search)
    assert caught.value.pool_name == "hunting"


def test_ending_cleanly_is_the_default_and_other_words_are_refused() -> None:
    ring = KeyRing("hunting", [A])
    assert HydraExecutor(ring).on_exhausted == "exit"
    assert HydraExecutor(ring).agent_name == "unknown"
    with pytest.raises(InvalidInput):
        HydraExecutor(ring, on_exhausted="explode")  # wrong on purpose


async def test_a_dead_key_is_reported_and_left_alone_for_a_day(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, DEAD)
    executor = make(A, B)
    with capture_logs() as logs:
        assert await executor.execute_async(youtube.search) == {"items": []}
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("key_disabled", "error")]
    assert logs[0]["key"] == f"…{A[-4:]}"
    clock.time += timedelta(hours=23)
    await executor.execute_async(youtube.search)
    assert youtube.asked == [A, B, B]
    clock.time += timedelta(hours=1)  # a person may have mended it
    assert executor.key_ring.is_usable(A)


async def test_a_project_without_the_api_is_disabled_with_all_its_keys(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, NOT_ENABLED)
    executor = make(ApiKey(A, "p"), ApiKey(B, "p"), ApiKey(C, "q"))
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, C]
    assert [status.disabled for status in executor.key_ring.status()] == [True, True, False]


async def test_only_dead_keys_are_a_wrong_configuration_not_a_clean_end(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, DEAD)
    executor = make(A, on_exhausted="exit")
    for _ in range(2):
        with pytest.raises(ConfigurationError):
            await executor.execute_async(youtube.search)
    assert youtube.asked == [A]


async def test_a_spent_search_bucket_leaves_the_others(youtube: YouTube, make: Make) -> None:
    youtube.script(A, refusals.SEARCH_SPENT, GOOD)
    executor = make(A)
    with pytest.raises(QuotaExhausted) as caught:
        await executor.execute_async(youtube.search, bucket="search")
    assert caught.value.retry_at == RESET
    assert await executor.execute_async(youtube.search) == {"items": []}
    with pytest.raises(QuotaExhausted):
        await executor.execute_async(youtube.search, bucket="search")
    assert youtube.asked == [A, A]


async def test_a_refusal_names_the_bucket_that_an_unlabelled_request_drew_on(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, refusals.SEARCH_SPENT, GOOD)
    executor = make(A)
    with pytest.raises(QuotaExhausted):
        await executor.execute_async(youtube.search)
    (status,) = executor.key_ring.status()
    assert {one.bucket for one in status.buckets if one.resting_until} == {"search"}
    assert await executor.execute_async(youtube.search) == {"items": []}


async def test_an_unlabelled_search_is_known_by_its_answers_and_not_sent_again(
    youtube: YouTube, make: Make
) -> None:
    found = Reply(200, b'{"kind": "youtube#searchListResponse", "items": []}')
    youtube.script(A, found, refusals.SEARCH_SPENT)
    executor = make(A)
    await executor.execute_async(youtube.search)
    (status,) = executor.key_ring.status()
    assert {one.bucket: one.spent for one in status.buckets if one.spent} == {"search": 1}
    for _ in range(3):
        with pytest.raises(QuotaExhausted):
            await executor.execute_async(youtube.search)
    assert len(youtube.asked) == 2


@pytest.mark.parametrize(
    "wrong", [{"bucket": "fish"}, {"cost": 0}, {"cost": True}, {"bucket": None}]
)
async def test_an_unknown_bucket_and_a_cost_below_one_are_refused(
    make: Make, wrong: dict[str, Any]
) -> None:
    async def never(key: str) -> None:
        raise AssertionError

    with pytest.raises(InvalidInput):
        await make(A).execute_async(never, **wrong)


async def test_a_blocked_address_stops_everything(youtube: YouTube, make: Make) -> None:
    youtube.script(A, refusals.SORRY)
    executor = make(A, B)
    for _ in range(2):
        with pytest.raises(QuotaExhausted):
            await executor.execute_async(youtube.search)
    assert youtube.asked == [A]


async def test_many_requests_at_once_all_end_at_the_key_that_is_left(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, SPENT)
    youtube.script(B, SPENT)
    executor = make(A, B, C)
    answers = await asyncio.gather(*(executor.execute_async(youtube.search) for _ in range(20)))
    assert answers == [{"items": []}] * 20
    assert Counter(youtube.asked)[C] == 20
    assert not vars(executor.key_ring)["_sessions"]


async def test_the_short_form_makes_one_request_with_fail_over(youtube: YouTube) -> None:
    youtube.script(A, SPENT)
    ring = KeyRing("hunting", [A, B])
    assert await execute_youtube_request_async(ring, youtube.search) == {"items": []}
    assert youtube.asked == [A, B]
    youtube.script(B, SPENT)
    with pytest.raises(SystemExit):
        await execute_youtube_request_async(ring, youtube.search, agent_name="hunter")
    with pytest.raises(QuotaExhausted):
        await execute_youtube_request_async(ring, youtube.search, on_exhausted="raise")
