"""The executor against a server on loopback that answers as the YouTube API does."""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from atlas import retry as retries
from atlas.config import ApiKey, reset_settings
from atlas.errors import ConfigurationError, InvalidInput, QuotaExhausted
from atlas.keys import Accounts, HydraExecutor, KeyRing, execute_youtube_request_async
from atlas.keys.pace import SHORTEST_REST
from atlas.keys.youtube import Action
from tests.support import refusals
from tests.support.servers.http import Reply, loopback_server
from tests.support.servers.youtube import (
    BROKEN,
    DEAD,
    GOOD,
    NOT_ENABLED,
    NOT_FOUND,
    SPENT,
    TOO_FAST,
    HttpError,
    YouTube,
)

A, B, C = (f"AIzaSyFakeFakeFakeFakeFakeFakeFakeKey-{letter}" for letter in "abc")
NOON = datetime(2026, 7, 1, 19, tzinfo=UTC)  # noon in Los Angeles
RESET = datetime(2026, 7, 2, 7, tzinfo=UTC)


class Clock:
    """Moves only when the code under test waits."""

    def __init__(self) -> None:
        self.time = NOON
        self.waits: list[float] = []

    def __call__(self) -> datetime:
        return self.time

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += timedelta(seconds=seconds)


@pytest.fixture
async def youtube() -> AsyncIterator[YouTube]:
    with loopback_server() as server:
        yield YouTube(server)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries, "pause", clock.pause)
    return clock


@pytest.fixture
def make(clock: Clock) -> Callable[..., HydraExecutor]:
    """An executor over the given keys, that raises when they are spent unless told otherwise."""

    def make(*keys: str | ApiKey, on_exhausted: Any = "raise") -> HydraExecutor:
        ring = KeyRing("hunting", keys, accounts=Accounts(clock))
        return HydraExecutor(ring, agent_name="hunter", on_exhausted=on_exhausted)

    return make


Make = Callable[..., HydraExecutor]


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


async def test_too_fast_on_the_only_key_waits_and_asks_again_which_costs_no_attempt(
    youtube: YouTube, make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_RETRY_ATTEMPTS", "1")
    reset_settings()
    youtube.script(A, TOO_FAST, TOO_FAST, GOOD)
    assert await make(A).execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, A, A]
    assert min(clock.waits) >= SHORTEST_REST


async def test_too_fast_turns_the_request_to_another_project(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, TOO_FAST)
    executor = make(ApiKey(A, "p"), ApiKey(B, "p"), ApiKey(C, "q"))
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, C]
    assert clock.waits == []


async def test_too_fast_for_too_long_is_given_up(
    youtube: YouTube, make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_MAX_WAIT_SECONDS", "100")
    reset_settings()
    youtube.script(A, TOO_FAST)
    assert await make(A).execute_async(youtube.search) is None
    assert 0 < sum(clock.waits) <= 100


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


async def test_a_service_that_is_down_is_left_alone_but_for_probes(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, BROKEN)
    executor = make(A)
    begun = clock.time
    while clock.time < begun + timedelta(minutes=10):
        assert await executor.execute_async(youtube.search) is None
    assert len(youtube.asked) <= 30
    youtube.script(A, GOOD)
    assert await executor.execute_async(youtube.search) == {"items": []}
    waits = len(clock.waits)
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert len(clock.waits) == waits


@pytest.mark.parametrize("text", sorted(refusals.PUBLISHED))
async def test_the_platforms_own_exceptions_rotate_and_end_cleanly(
    text: str, make: Make, clock: Clock
) -> None:
    refusal, action, _ = refusals.PUBLISHED[text]
    asked: list[str] = []

    async def request(key: str) -> None:
        asked.append(key)
        raise Exception(f"HTTP {refusal.status}: {refusal.body.decode()[:200]}")

    executor = make(A, B, on_exhausted="exit")
    if action is Action.REST:
        with pytest.raises(SystemExit) as caught:
            await executor.execute_async(request)
        assert caught.value.code == 0
        assert asked == [A, B]
    elif action in (Action.DISABLE_KEY, Action.DISABLE_PROJECT):
        with pytest.raises(ConfigurationError):
            await executor.execute_async(request)
        assert asked == [A, B]
    elif action is Action.FAIL:
        with pytest.raises(Exception, match="HTTP 40"):
            await executor.execute_async(request)
        assert asked == [A]
    else:
        assert await executor.execute_async(request) is None


async def test_too_fast_sends_other_requests_to_other_keys_meanwhile(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    executor = make(A, B)
    executor.key_ring.slow_down(A, NOON + timedelta(seconds=9))
    await executor.execute_async(youtube.search)
    assert youtube.asked == [B]
    assert clock.waits == []


async def test_too_fast_on_the_only_key_holds_other_requests_back_and_is_not_exhaustion(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    executor = make(A, on_exhausted="exit")
    executor.key_ring.slow_down(A, NOON + timedelta(seconds=9))
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert len(clock.waits) == 1
    assert clock.waits[0] >= 9


async def test_transient_errors_are_retried_with_growing_pauses(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, BROKEN, BROKEN, GOOD)
    assert await make(A, B).execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, A, A]
    assert 0.5 <= clock.waits[0] <= 1.0 <= clock.waits[1] <= 2.0


async def test_an_unreachable_service_is_transient(make: Make, clock: Clock) -> None:
    with loopback_server() as server:
        youtube = YouTube(server)
    executor = make(A, B, on_exhausted="exit")
    assert await executor.execute_async(youtube.search) is None
    assert len(clock.waits) == 2
    assert executor.key_ring.is_usable(A)


@pytest.mark.parametrize(("variable", "attempts"), [(None, 3), ("5", 5), ("1", 1)])
async def test_transient_errors_give_none_when_the_attempts_are_used_up(
    variable: str | None,
    attempts: int,
    youtube: YouTube,
    make: Make,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if variable is not None:
        monkeypatch.setenv("HYDRA_RETRY_ATTEMPTS", variable)
        reset_settings()
    youtube.script(A, BROKEN)
    executor = make(A, B, on_exhausted="exit")
    assert await executor.execute_async(youtube.search) is None
    assert youtube.asked == [A] * attempts
    assert len(clock.waits) == attempts - 1
    assert executor.key_ring.is_usable(A)


async def test_a_key_spent_between_attempts_hands_over_to_the_next(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, BROKEN, SPENT)
    assert await make(A, B).execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, A, B]


async def test_a_key_spent_by_another_request_during_the_pause_is_not_asked_again(
    youtube: YouTube, make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    youtube.script(A, BROKEN)
    executor = make(A, B)

    async def pause(seconds: float) -> None:
        executor.key_ring.rest(A, RESET)

    monkeypatch.setattr(retries, "pause", pause)
    assert await executor.execute_async(youtube.search) == {"items": []}
    assert youtube.asked == [A, B]


async def test_an_error_of_the_item_is_raised_as_it_is_and_costs_no_key(
    youtube: YouTube, make: Make
) -> None:
    youtube.script(A, NOT_FOUND)
    executor = make(A, B)
    with pytest.raises(HttpError) as caught:
        await executor.execute_async(youtube.search)
    assert caught.value.status_code == 404
    assert youtube.asked == [A]
    assert executor.key_ring.is_usable(A)


async def test_a_fault_of_the_program_is_raised_as_it_is(make: Make) -> None:
    async def faulty(key: str) -> None:
        raise KeyError("items")

    with pytest.raises(KeyError, match="items"):
        await make(A, B).execute_async(faulty)


async def test_a_classifier_of_the_agents_own_decides_alone(
    youtube: YouTube, make: Make, clock: Clock
) -> None:
    youtube.script(A, NOT_FOUND)
    executor = make(A, B)
    quota = await executor.execute_async(youtube.search, lambda error: (True, True))
    assert quota == {"items": []}
    assert executor.key_ring.status()[0].resting_until == RESET

    executor = make(A, B)
    assert await executor.execute_async(youtube.search, lambda error: (False, True)) is None
    assert len(clock.waits) == 2

    youtube.script(A, SPENT)
    with pytest.raises(HttpError):
        await make(A, B).execute_async(youtube.search, lambda error: (False, False))


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


async def test_cancelling_a_request_ends_its_session(make: Make) -> None:
    executor = make(A)
    started = asyncio.Event()

    async def hang(key: str) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(executor.execute_async(hang))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not vars(executor.key_ring)["_sessions"]


async def test_no_key_reaches_a_log_an_error_or_its_traceback(
    youtube: YouTube,
    make: Make,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    youtube.script(A, BROKEN, TOO_FAST, SPENT)
    youtube.script(B, DEAD)
    youtube.script(C, SPENT)
    shown = []
    with capture_logs() as logs:
        for on_exhausted in ("raise", "exit"):
            try:
                await make(A, B, C, on_exhausted=on_exhausted).execute_async(youtube.search)
            except (QuotaExhausted, SystemExit) as error:
                shown += traceback.format_exception(error)
    assert {"request_failed", "key_spent", "key_disabled", "quota_exhausted"} <= {
        entry["event"] for entry in logs
    }
    printed = capsys.readouterr()
    text = "".join([*shown, repr(logs), printed.out, printed.err, caplog.text])
    assert "QuotaExhausted" in text
    for key in (A, B, C):
        assert key not in text


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
