"""What an emit costs and waits for, and a listener; then, by `benchmarks.deliveries`, what deliveries do."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from atlas.config import Settings
from atlas.db import Database
from atlas.events import EventBus
from benchmarks import deliveries
from benchmarks.support import Result, at_most, part
from tests.support.servers.cluster import Cluster, running_cluster

FACTS = {"video_id": "dQw4w9WgXcQ", "channel_id": "UC_x5XG1OV2P6uZZ5FSM9Ttw", "published_at": None}


async def measure(
    database: Database, folder: Path, rows: int, *, seconds: float = 60.0
) -> list[Result]:
    """Every figure, one after the other; ``rows`` halved wait where many do."""
    bus = EventBus(database, Settings(_env_file=None, env="test"))
    results = [
        *await emitting(bus),
        *await handlers(bus),
        await frozen(),
        await listening(bus, seconds),
    ]
    return results + await deliveries.measure(bus, folder, rows, seconds)


async def emitting(bus: EventBus, pairs: int = 100) -> list[Result]:
    """A transaction of 50 inserts with an event in it, beside the same without."""
    insert = text("INSERT INTO search_queue (query_term) VALUES (:term)")
    cpu: dict[bool, list[float]] = {True: [], False: []}
    wall: dict[bool, list[float]] = {True: [], False: []}
    for number in range(pairs + 5):
        for emits in (True, False) if number % 2 else (False, True):
            begun, spent = time.perf_counter(), time.thread_time()
            async with bus.database.transaction() as session:
                for n in range(50):
                    await session.execute(insert, {"term": f"{number} {n} {emits}"})
                if emits:
                    await bus.emit("video.discovered", f"v{number}", FACTS, session=session)
            if number >= 5:
                wall[emits].append(time.perf_counter() - begun)
                cpu[emits].append(time.thread_time() - spent)
    # of pairs: what else the machine does changes slowly
    more = part([one - other for one, other in zip(cpu[True], cpu[False], strict=True)], 0.5)
    longer = part([one / other for one, other in zip(wall[True], wall[False], strict=True)], 0.5)
    return [
        at_most("emit in a transaction of 50 inserts: wall, times without", longer, 1.15, ""),
        at_most("emit in a transaction of 50 inserts: CPU", more * 1e3, 0.5, "ms"),
    ]


async def handlers(bus: EventBus) -> list[Result]:
    """An emit beside a handler that does not end."""

    async def hang(event: object) -> None:
        await asyncio.Event().wait()

    async def cancelled(event: object) -> None:
        raise asyncio.CancelledError

    release = threading.Event()

    def block(event: object) -> None:
        release.wait()

    async def seconds() -> float:
        begun = time.perf_counter()
        await bus.emit("a.tick")
        return time.perf_counter() - begun

    plain = part([await seconds() for _ in range(20)], 0.5)
    results = []
    for kind, handler in (("hanging", hang), ("cancelled", cancelled), ("blocking", block)):
        own = EventBus(bus.database, bus.settings)
        own.on("*")(handler)
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            await own.emit("a.tick")
            taken.append(time.perf_counter() - begun)
        results.append(
            at_most(f"emit beside a {kind} handler, over none", max(taken) - plain, 0.05)
        )
        release.set()
        for task in own._handlers.pending():
            task.cancel()
    return results


async def frozen() -> Result:
    """An emit to a server whose processes are stopped by SIGSTOP."""
    with running_cluster() as cluster:
        database = Database(cluster.server.migrated())
        bus = EventBus(database, Settings(_env_file=None, env="test"))
        await bus.emit("a.tick")
        processes = processes_of(cluster)
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        begun = time.perf_counter()
        await bus.emit("a.tick")
        seconds = time.perf_counter() - begun
        for process in processes:
            os.kill(process, signal.SIGCONT)
        await bus.drain()
        await database.close()
    return at_most("emit to a PostgreSQL stopped by SIGSTOP", seconds, 5.0)


def processes_of(cluster: Cluster) -> list[int]:
    """The server's leader and its children."""
    leader = int((cluster.folder / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    return [leader, *map(int, children)]


async def listening(bus: EventBus, seconds: float) -> Result:
    """From emit to the listener, beside a transaction that is open all the time."""
    lags: list[float] = []

    async def listen() -> None:
        async for batch in bus.listen("benchmark", "b.*"):
            now = datetime.now(UTC)
            lags.extend(
                (now - event.created_at).total_seconds() for event in batch if event.created_at
            )

    async with bus.database.session() as foreign:
        await foreign.execute(text("CREATE TEMPORARY TABLE work (id int)"))
        listener, end = asyncio.create_task(listen()), time.monotonic() + seconds
        while time.monotonic() < end:
            await bus.emit("b.tick")
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        listener.cancel()
    return at_most(
        f"listener's delay, p99 of {len(lags)}, beside a foreign transaction of {seconds:.0f} s",
        part(lags, 0.99),
        0.5,
    )
