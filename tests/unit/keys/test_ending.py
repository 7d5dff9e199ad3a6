"""How programs end whose keys are spent: what neighbours may finish, and what is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from atlas.errors import QuotaExhausted
from atlas.keys import Accounts, HydraExecutor, KeyRing
from atlas.notifications import notifier
from tests.support.refusals import SPENT
from tests.support.servers.quota_api import raise_as_agents_do

ROOT = Path(__file__).resolve().parents[3]
KEY = "AIzaSyFakeFakeFakeFakeFakeFakeFakeEnding"


async def spent(key: str) -> object:
    return raise_as_agents_do(SPENT)


def executor(**options: object) -> HydraExecutor:
    ring = KeyRing("hunting", [KEY], accounts=Accounts())
    return HydraExecutor(ring, "hunter", **options)  # type: ignore[arg-type]


def test_neighbours_finish_before_a_program_ends() -> None:
    one, done = executor(), []

    async def neighbour() -> None:
        while not one.ending:  # noqa: ASYNC110  # as an agent's loop does
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        done.append("saved")

    async def main() -> None:
        task = asyncio.create_task(neighbour())
        await one.execute_async(spent)
        await task
        done.append("not reached")

    with pytest.raises(SystemExit) as caught:
        HydraExecutor.run(main)
    assert caught.value.code == 0
    assert done == ["saved"]


def test_neighbours_that_do_not_finish_are_cancelled_and_may_clean_up() -> None:
    one, done = executor(), []

    async def neighbour() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            done.append("saved")
            raise

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(neighbour())
            group.create_task(one.execute_async(spent))  # type: ignore[arg-type]

    with pytest.raises(SystemExit):
        HydraExecutor.run(main, grace=0.2)
    assert done == ["saved"]


def test_several_agents_that_end_at_once_destroy_nobody() -> None:
    agents, done = [executor() for _ in range(3)], []

    async def agent(one: HydraExecutor) -> None:
        try:
            await one.execute_async(spent)
        finally:
            await asyncio.sleep(0.005)
            done.append("saved")

    async def main() -> None:
        await asyncio.gather(*map(agent, agents))

    with pytest.raises(SystemExit):
        HydraExecutor.run(main())
    assert done == ["saved"] * 3


def test_a_program_that_is_not_spent_returns_its_result_and_raises_its_errors() -> None:
    async def main() -> int:
        return 7

    async def faulty() -> None:
        raise KeyError("mine")

    assert HydraExecutor.run(main) == 7
    with pytest.raises(KeyError, match="mine"):
        HydraExecutor.run(faulty)


def test_an_error_of_the_program_is_not_hidden_by_the_end() -> None:
    one = executor()

    async def main() -> None:
        task = asyncio.create_task(one.execute_async(spent))
        await asyncio.wait([task])
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        HydraExecutor.run(main)


async def test_without_run_a_task_that_is_being_cancelled_does_not_exit_again() -> None:
    one = executor()

    async def agent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await one.execute_async(spent)

    task = asyncio.create_task(agent())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_people_are_told_once_a_cool_down(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    async def send(title: str, *args: object, **options: object) -> bool:
        told.append(title)
        return True

    monkeypatch.setattr(notifier, "send", send)
    one = executor()
    for _ in range(3):
        with pytest.raises(SystemExit):
            await one.execute_async(spent)
    assert told == ["API quota spent"]
    with pytest.raises(QuotaExhausted):
        await executor(on_exhausted="raise").execute_async(spent)
    assert len(told) == 1


def test_a_script_as_the_platform_writes_it_ends_with_exit_0() -> None:
    code = f"""
        import asyncio
        from atlas.utils import HydraExecutor, KeyRing

        async def make_request(api_key):
            raise Exception("HTTP 403: " + {SPENT.body.decode()[:200]!r})

        async def main():
            executor = HydraExecutor(KeyRing("hunting", keys=["{KEY}"]), agent_name="hunter")
            while True:
                await executor.execute_async(make_request)

        asyncio.run(main())
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
