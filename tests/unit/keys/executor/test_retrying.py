"""What is tried again and after which pause: too fast, broken and unreachable services."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atlas import retry as retries
from atlas.config import ApiKey, reset_settings
from atlas.keys.pace import SHORTEST_REST
from tests.support.keys import NOON, RESET, A, B, C, Clock, Make
from tests.support.servers.http import loopback_server
from tests.support.servers.youtube import BROKEN, GOOD, SPENT, TOO_FAST, YouTube


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
