"""What the caller is told when a request fails, and what no message holds."""

from __future__ import annotations

import asyncio
import traceback

import pytest
from structlog.testing import capture_logs

from atlas.errors import ConfigurationError, QuotaExhausted
from atlas.keys.youtube import Action
from tests.support import refusals
from tests.support.keys import RESET, A, B, C, Clock, Make
from tests.support.servers.youtube import (
    BROKEN,
    DEAD,
    NOT_FOUND,
    SPENT,
    TOO_FAST,
    HttpError,
    YouTube,
)


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
