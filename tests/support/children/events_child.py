"""An emitter, router, deliverer or listener in a process of its own, at work until it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from atlas.config import Settings, reset_settings
from atlas.db import Database
from atlas.errors import AtlasError
from atlas.events import EventBus, listening
from atlas.events.delivery import deliverer
from atlas.events.delivery.router import route_page

#: Seconds after which a child ends by itself, should nobody kill it.
LONGEST_LIFE = 300.0
ENTITIES = 20
#: Events that a listener has under way.
BATCH = 50

_BEGIN = text("UPDATE chaos_entities SET n = n + 1 WHERE id = :id RETURNING n")
_FACT = text("INSERT INTO chaos_facts VALUES (:id, :n)")


def start(job: str, url: str, seed: int, folder: Path, environment: dict[str, str]) -> Any:
    """A process that does the job on this database; ``environment`` is all that it has."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_main, args=(job, url, seed, folder, environment), daemon=True)
    process.start()
    return process


def _main(job: str, url: str, seed: int, folder: Path, environment: dict[str, str]) -> None:
    with (folder / f"log-{job}-{seed}").open("ab", buffering=0) as told:
        os.dup2(told.fileno(), sys.stderr.fileno())
        os.dup2(told.fileno(), sys.stdout.fileno())
    os.environ.clear()
    os.environ.update(environment)
    reset_settings()
    if "ATLAS_CHAOS" not in environment:
        # what the dead held comes back at once
        deliverer.FRESH, listening.LEASE = 0.5, 2.0
    with contextlib.suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(_work(JOBS[job], url, seed, folder), LONGEST_LIFE))


async def _work(
    job: Callable[[EventBus, random.Random, Path], Awaitable[None]],
    url: str,
    seed: int,
    folder: Path,
) -> None:
    database = Database(url, pool_size=4)
    bus = EventBus(database, Settings(_env_file=None, env="test"))
    if "ATLAS_CHAOS" not in os.environ:
        bus.timeout = 1.0
    try:
        await job(bus, random.Random(seed), folder)
    finally:
        await database.close()


async def _emit(bus: EventBus, dice: random.Random, folder: Path) -> None:
    await asyncio.gather(*(_emit_on(bus, random.Random(dice.random())) for _ in range(3)))


async def _emit_on(bus: EventBus, dice: random.Random) -> None:
    while True:
        hold = dice.choice((0, 0, 0, 0, 0.3, 1.0)) * dice.random()
        with contextlib.suppress(AtlasError, OSError, Undone):
            await _change(bus, f"e{dice.randrange(ENTITIES)}", hold, undo=dice.random() < 0.1)
        await asyncio.sleep(dice.uniform(0.01, 0.05))


class Undone(Exception):
    """A transaction that its program rolls back."""


async def _change(bus: EventBus, entity: str, hold: float, *, undo: bool) -> None:
    """A change and its event in one transaction, which commits late where it holds its locks."""
    async with bus.database.transaction() as session:
        number = await session.scalar(_BEGIN, {"id": entity})
        facts = {"n": number, "hold": hold}
        await bus.emit("chaos.changed", entity, facts, session=session)
        await asyncio.sleep(hold)
        await session.execute(_FACT, {"id": entity, "n": number})
        if undo:
            raise Undone


async def _route(bus: EventBus, dice: random.Random, folder: Path) -> None:
    while True:
        with contextlib.suppress(AtlasError, OSError):
            await route_page(bus.database, limit=dice.randint(1, 100))
        await asyncio.sleep(0.02)


async def _deliver(bus: EventBus, dice: random.Random, folder: Path) -> None:
    await bus.deliverer().run()


async def _listen(bus: EventBus, dice: random.Random, folder: Path) -> None:
    with (folder / f"listened-{os.getpid()}").open("ab", buffering=0) as out:
        async for batch in bus.listen("chaos", "chaos.*", limit=BATCH, poll=0.05):
            for event in batch:
                # one write: a line is there whole or not at all
                out.write(f"{event.seq} {event.id} {event.entity_id} {event['n']}\n".encode())
                await asyncio.sleep(0)


JOBS: dict[str, Callable[[EventBus, random.Random, Path], Awaitable[None]]] = {
    "emitter": _emit,
    "router": _route,
    "deliverer": _deliver,
    "listener": _listen,
}
