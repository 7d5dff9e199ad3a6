"""The same no-op work through two job queues of PostgreSQL: procrastinate and pgqueuer."""

from __future__ import annotations

import asyncio
import logging

import asyncpg
import procrastinate
from pgqueuer import AsyncpgDriver, Queries, QueueManager
from pgqueuer.types import QueueExecutionMode

from atlas.db import Database
from benchmarks.support import Stopwatch, stopwatch

#: Jobs put in by one statement.
_PUT = 1_000


async def drain_procrastinate(database: Database, jobs: int, workers: int, batch: int) -> Stopwatch:
    """Time that ``workers`` workers, each with ``batch`` jobs at a time, take for all jobs.

    It fetches job by job, and reports job by job: a batch is its number of concurrent jobs.
    """
    logging.getLogger("procrastinate").setLevel(logging.CRITICAL)
    url = await database.libpq_url()
    connector = procrastinate.PsycopgConnector(
        conninfo=url, min_size=workers + 2, max_size=workers + 2
    )
    app = procrastinate.App(connector=connector)
    done = 0

    @app.task(name="nothing")
    async def nothing(number: int) -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, jobs, _PUT):
            await nothing.batch_defer_async(
                *({"number": number} for number in range(start, min(start + _PUT, jobs)))
            )
        with stopwatch() as watch:
            await asyncio.gather(
                *(
                    app.run_worker_async(
                        concurrency=batch,
                        wait=False,
                        listen_notify=False,
                        install_signal_handlers=False,
                    )
                    for _ in range(workers)
                )
            )
    assert done == jobs, (done, jobs)
    return watch


async def drain_pgqueuer(database: Database, jobs: int, workers: int, batch: int) -> Stopwatch:
    """Time that ``workers`` workers, each dequeuing ``batch`` jobs at once, take for all jobs."""
    logging.getLogger("pgqueuer").setLevel(logging.CRITICAL)
    url = await database.libpq_url()
    connections = [await asyncpg.connect(url) for _ in range(workers)]
    done = 0

    async def nothing(job: object) -> None:
        nonlocal done
        done += 1

    try:
        queries = Queries(AsyncpgDriver(connections[0]))
        await queries.install()
        for start in range(0, jobs, _PUT):
            count = min(_PUT, jobs - start)
            await queries.enqueue(["nothing"] * count, [None] * count, [0] * count)
        managers = [QueueManager(Queries(AsyncpgDriver(each))) for each in connections]
        for manager in managers:
            manager.entrypoint("nothing")(nothing)
        with stopwatch() as watch:
            await asyncio.gather(
                *(
                    manager.run(batch_size=batch, mode=QueueExecutionMode.drain)
                    for manager in managers
                )
            )
    finally:
        for connection in connections:
            await connection.close()
    assert done == jobs, (done, jobs)
    return watch
