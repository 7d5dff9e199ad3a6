"""Retry decorators: how often, how long, what is never held up."""

from __future__ import annotations

import asyncio
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from atlas import retry as retries
from atlas.errors import InvalidInput, Unavailable, VaultUnavailable
from atlas.retry import retry, retry_async, retry_unavailable


class Flaky:
    """Fails with ``errors`` in turn, then returns its argument."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, value: int = 7) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return value


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none of them is waited."""
    asked: list[float] = []

    async def pause(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(retries, "pause", pause)
    monkeypatch.setattr(retries, "block", asked.append)
    return asked


async def test_a_coroutine_function_is_called_until_it_succeeds(waits: list[float]) -> None:
    flaky = Flaky(OSError(), OSError())

    @retry_async(max_attempts=3)
    async def work(value: int) -> int:
        return flaky(value)

    assert await work(3) == 3
    assert flaky.calls == 3
    assert len(waits) == 2


def test_a_plain_function_is_called_until_it_succeeds(waits: list[float]) -> None:
    flaky = Flaky(OSError(), OSError())
    assert retry(max_attempts=3)(flaky)(3) == 3
    assert flaky.calls == 3
    assert len(waits) == 2


async def test_the_real_pauses_pause_and_return() -> None:
    plain, coroutine = Flaky(OSError()), Flaky(OSError())

    @retry_async(delay=0)
    async def work() -> int:
        return coroutine()

    assert retry(delay=0)(plain)() == await work() == 7


async def test_the_last_error_itself_is_raised_when_attempts_run_out(waits: list[float]) -> None:
    last = OSError("third")
    flaky = Flaky(OSError("first"), OSError("second"), last, OSError("fourth"))

    @retry_async(max_attempts=3)
    async def work() -> int:
        return flaky()

    with pytest.raises(OSError, match="third") as caught:
        await work()
    assert caught.value is last
    assert flaky.calls == 3

    flaky = Flaky(last)
    with pytest.raises(OSError, match="third"):
        retry(max_attempts=1)(flaky)()
    assert flaky.calls == 1


def test_pauses_grow_with_jitter_up_to_max_delay(waits: list[float]) -> None:
    for _ in range(30):
        flaky = Flaky(*[OSError()] * 5)
        retry(max_attempts=6, delay=1.0, backoff=3.0, max_delay=10.0)(flaky)()
    rounds = [waits[i : i + 5] for i in range(0, len(waits), 5)]
    for pauses in rounds:
        for pause, longest in zip(pauses, (1.0, 3.0, 9.0, 10.0, 10.0), strict=True):
            assert longest / 2 <= pause <= longest
    for same_attempt in zip(*rounds, strict=True):
        assert len(set(same_attempt)) > 1  # jittered at the ceiling, too


def test_many_attempts_do_not_overflow_the_pause(waits: list[float]) -> None:
    retry(max_attempts=1200, backoff=10.0, max_delay=5.0)(Flaky(*[OSError()] * 1199))()
    assert max(waits) <= 5.0


async def test_other_errors_are_raised_at_once(waits: list[float]) -> None:
    flaky = Flaky(KeyError("x"))

    @retry_async(exceptions=(OSError, ValueError))
    async def work() -> int:
        return flaky()

    with pytest.raises(KeyError):
        await work()
    assert flaky.calls == 1


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_cancellation_and_exit_are_never_held_up(
    kind: type[Exception], waits: list[float]
) -> None:
    flaky = Flaky(kind())

    @retry_async(exceptions=(BaseException,))  # wrong, but it must not matter
    async def work() -> int:
        return flaky()

    with pytest.raises(kind):
        await work()
    assert flaky.calls == 1
    assert waits == []


async def test_cancelling_during_a_pause_ends_the_attempts() -> None:
    started = asyncio.Event()
    calls = 0

    @retry_async(delay=3600, max_delay=3600)
    async def work() -> None:
        nonlocal calls
        calls += 1
        started.set()
        raise OSError

    task = asyncio.create_task(work())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls == 1


@pytest.mark.parametrize("decorator", [retry, retry_async, retry_unavailable])
@pytest.mark.parametrize("attempts", [0, -1])
def test_less_than_one_attempt_is_refused_when_decorating(decorator, attempts) -> None:
    with pytest.raises(ValueError, match="max_attempts") as caught:
        decorator(max_attempts=attempts)
    assert isinstance(caught.value, InvalidInput)


def test_negative_times_are_refused_when_decorating() -> None:
    with pytest.raises(ValueError, match="negative"):
        retry(delay=-1)
    with pytest.raises(ValueError, match="negative"):
        retry_async(max_delay=-1)


def test_functions_that_could_never_be_retried_are_refused() -> None:
    async def coroutine() -> None: ...

    def generator():
        yield 1

    async def async_generator():
        yield 1

    with pytest.raises(TypeError, match="retry_async"):
        retry()(coroutine)
    with pytest.raises(TypeError, match="generator"):
        retry()(generator)
    with pytest.raises(TypeError, match="generator"):
        retry_async()(async_generator)


async def test_name_docstring_signature_and_method_binding_survive() -> None:
    class Agent:
        base = 40

        @retry_async()
        async def add(self, number: int, *, twice: bool = False) -> int:
            """Add."""
            return self.base + number * (2 if twice else 1)

    assert Agent.add.__name__ == "add"
    assert Agent.add.__doc__ == "Add."
    assert inspect.iscoroutinefunction(Agent.add)
    assert list(inspect.signature(Agent.add).parameters) == ["self", "number", "twice"]
    assert await Agent().add(1, twice=True) == 42


async def test_a_partial_that_gives_an_awaitable_is_retried(waits: list[float]) -> None:
    flaky = Flaky(OSError())

    async def work(value: int) -> int:
        return flaky(value)

    assert await retry_async()(functools.partial(work, 5))() == 5
    assert flaky.calls == 2


def test_threads_that_share_a_decorated_function_do_not_disturb_each_other(
    waits: list[float],
) -> None:
    @retry(max_attempts=50)
    def work(flaky: Flaky) -> int:
        return flaky()

    def one(_: int) -> int:
        flaky = Flaky(*[OSError()] * 20)
        work(flaky)
        return flaky.calls

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(200))) == {21}


def test_unavailable_is_retried_and_nothing_else(waits: list[float]) -> None:
    flaky = Flaky(Unavailable("down"), VaultUnavailable("down"))
    assert retry_unavailable(max_attempts=3)(flaky)() == 7
    flaky = Flaky(OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        retry_unavailable(max_attempts=3)(flaky)()
    assert flaky.calls == 1


async def test_unavailable_is_retried_in_coroutine_functions(waits: list[float]) -> None:
    flaky = Flaky(Unavailable("down"), Unavailable("down"))

    @retry_unavailable(max_attempts=2)
    async def work() -> int:
        return flaky()

    with pytest.raises(Unavailable):
        await work()
    assert flaky.calls == 2
    assert inspect.iscoroutinefunction(work)


def asking(seconds: object) -> Unavailable:
    error = Unavailable("busy")
    error.retry_after = seconds
    return error


def test_retry_after_is_honoured_within_the_time_left(waits: list[float]) -> None:
    flaky = Flaky(asking(20))
    assert retry_unavailable(max_seconds=60)(flaky)() == 7
    assert waits == [20.0]


def test_retry_after_beyond_the_time_left_gives_up_at_once(waits: list[float]) -> None:
    flaky = Flaky(asking(3600))
    with pytest.raises(Unavailable):
        retry_unavailable(max_seconds=60)(flaky)()
    assert flaky.calls == 1
    assert waits == []


@pytest.mark.parametrize("nonsense", ["soon", None, float("nan"), -5])
def test_a_retry_after_that_is_no_number_is_passed_over(
    nonsense: object, waits: list[float]
) -> None:
    retry(delay=1.0)(Flaky(asking(nonsense)))()
    assert len(waits) == 1
    assert 0.5 <= waits[0] <= 1.0


def test_neither_arguments_nor_the_errors_text_are_logged(waits: list[float]) -> None:
    @retry()
    def fetch(flaky: Flaky, key: str) -> int:
        return flaky()

    with capture_logs() as logs:
        fetch(Flaky(OSError("https://x/?key=sesame")), key="sesame")
    assert [entry["event"] for entry in logs] == ["retrying"]
    assert logs[0]["error"] == "OSError"
    assert "sesame" not in repr(logs)
