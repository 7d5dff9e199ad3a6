"""Works on the calendar of slow videos in a process of its own, which kills itself at a statement."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import event

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.repositories.erasure import Erasure
from atlas.repositories.watchlist import TrackingReport, Watchlist
from atlas.scheduling.calendar import Calendar
from atlas.types import TrackingTier
from atlas.vault import LocalVault
from tests.support.parked import moved_to, restored_from

#: What a job is given: the time that it takes for now, and ids.
Job = Callable[[Database, datetime, list[str]], Awaitable[object]]


async def _forget(database: Database, now: datetime, ids: list[str]) -> None:
    async with database.transaction() as session:
        await Erasure(session).bar(ids)
        await Erasure(session).delete_rows(ids)


async def _report(database: Database, now: datetime, ids: list[str]) -> None:
    hour = datetime.resolution * 3_600_000_000
    reports = [TrackingReport(one, TrackingTier.HOURLY, now, now + hour) for one in ids]
    async with database.transaction() as session:
        await Watchlist(session).report(reports)


async def _move(database: Database, now: datetime, ids: list[str]) -> None:
    await moved_to(LocalVault(ids[0]), database)


async def _restore(database: Database, now: datetime, ids: list[str]) -> None:
    await restored_from(LocalVault(ids[0]), database)


async def _erase(database: Database, now: datetime, ids: list[str]) -> None:
    await Archiver(database, LocalVault(ids[0])).forget(ids[1:])


async def _turn(database: Database, now: datetime, ids: list[str]) -> None:
    vault = LocalVault(ids[0])
    await Calendar(database, lambda: vault.store).turn(now)


async def _adopt(database: Database, now: datetime, ids: list[str]) -> None:
    await Archiver(database, LocalVault(ids[0])).adopt()


async def _rebuild(database: Database, now: datetime, ids: list[str]) -> None:
    await Archiver(database, LocalVault(ids[0])).rebuild()


async def _clean_up(database: Database, now: datetime, ids: list[str]) -> None:
    await Archiver(database, LocalVault(ids[0])).collect_garbage(timedelta(0))


JOBS: dict[str, Job] = {
    "park": lambda database, now, ids: Calendar(database).park(now),
    "turn": lambda database, now, ids: Calendar(database).turn(now),
    "plan": lambda database, now, ids: Calendar(database).plan(now),
    "forget": _forget,
    "report": _report,
    "move": _move,
    "restore": _restore,
    "erase": _erase,
    "turn_files": _turn,
    "adopt": _adopt,
    "rebuild": _rebuild,
    "clean_up": _clean_up,
    "downgrade": lambda database, now, ids: migrations.downgrade(database, ids[0]),
}


class Forks:
    """A process that forks for each job: that takes milliseconds."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("forkserver")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, url, dict(os.environ)))
        self._process.start()
        theirs.close()

    def run(
        self,
        job: str,
        now: datetime,
        ids: list[str],
        kill_at: int,
        url: str | None = None,
        **variables: str,
    ) -> bool:
        """Do the job, up to its ``kill_at``-th statement or commit; returns whether it had fewer."""
        self._orders.send((job, url, now, ids, kill_at, variables))
        code = self._orders.recv()
        assert code in (0, -signal.SIGKILL), f"{job} ended with {code}"
        return bool(code == 0)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.join()
        self._orders.close()


def _serve(orders: Any, url: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    while True:
        job, elsewhere, now, ids, kill_at, variables = orders.recv()
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.environ.update(variables)
                reset_settings()
                asyncio.run(_work(job, elsewhere or url, now, ids, kill_at))
                code = 0
            finally:
                os._exit(code)
        orders.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


async def _work(job: str, url: str, now: datetime, ids: list[str], kill_at: int) -> None:
    database = Database(url)
    steps = itertools.count(1)

    def step(*_: Any, **__: Any) -> None:
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = (await database.engine()).sync_engine
    event.listen(engine, "before_cursor_execute", step)
    event.listen(engine, "commit", step)
    try:
        await JOBS[job](database, now, ids)
    finally:
        await database.close()
