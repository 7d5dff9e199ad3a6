"""A worker in a process of its own: claims, works, speaks or not, until it is killed or stopped."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import signal
import time
from datetime import timedelta
from typing import Any

from atlas import scheduling
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import LeaseLost
from atlas.repositories import leases
from atlas.scheduling import Observation, Schedule, TrackItem, Work
from atlas.types import TrackingTier

#: Seconds after which a worker ends by itself, should nobody kill it.
LONGEST_LIFE = 180.0


class Soon:
    """A policy under which work never runs out, but for slow videos."""

    def schedule(self, seen: Observation) -> Schedule:
        if seen.tier is TrackingTier.WEEKLY:
            return Schedule(TrackingTier.WEEKLY, seen.sampled_at + timedelta(days=7))
        return Schedule(TrackingTier.HOURLY, seen.sampled_at + timedelta(seconds=0.5))


def start(url: str, seed: int, environment: dict[str, str]) -> Any:
    """A process that works on this database."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_main, args=(url, seed, environment), daemon=True)
    process.start()
    return process


def name_of(seed: int) -> str:
    """By which the database knows the worker."""
    return f"worker-{seed}"


def _main(url: str, seed: int, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    reset_settings()
    # the work of the dead comes back while the others are still at it
    leases.LEASE = "interval '400 milliseconds'"
    scheduling.work._FIRST_WAIT, scheduling.work._LONGEST_WAIT = 0.05, 0.2
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(_work(url, seed), LONGEST_LIFE))


async def _work(url: str, seed: int) -> None:
    dice = random.Random(seed)
    worker = asyncio.current_task()
    assert worker is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.cancel)
    # the witness in the database knows each worker by its name
    url += f"{'&' if '?' in url else '?'}application_name={name_of(seed)}"
    database = Database(url, pool_size=2)
    try:
        await _go_on(Work(database, policy=Soon(), renew_every=0.1), dice)
    finally:
        await database.close()


async def _go_on(work: Work, dice: random.Random) -> None:
    async for batch in work.stream("track", limit=dice.randint(1, 20)):
        # what was lost another worker has: that is all there is to know of it
        with contextlib.suppress(LeaseLost):
            async with batch:
                for item in batch:
                    await asyncio.sleep(dice.random() * 0.01)
                    if dice.random() < 0.02:
                        time.sleep(0.6)  # noqa: ASYNC251 - that is what is tried
                    _say(item, dice)
                    if dice.random() < 0.05:
                        await batch.flush()


def _say(item: TrackItem, dice: random.Random) -> None:
    # what is left out is not due again for an hour: seldom, or the work would run out
    match dice.choices(("done", "omitted", "retry", "fail", "nothing"), (85, 0.2, 5, 5, 5))[0]:
        case "done":
            item.done(views=dice.randrange(1000))
        case "omitted":
            item.omitted()
        case "retry":
            item.retry(timedelta(seconds=1))
        case "fail":
            item.fail("as the dice fell")
