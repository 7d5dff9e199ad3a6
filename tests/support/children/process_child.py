"""A program that has used Atlas, and then has others do so: ``python process_child.py HOW``.

Prints one line for each worker that could write, claim, read and archive; the parent goes on afterwards.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from datetime import UTC, datetime, timedelta

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import db
from atlas.reader import StatsReader

NOW = datetime.now(UTC)


async def _work(name: str) -> None:
    dao = MaiaDAO()
    old = NOW - timedelta(days=20)
    await dao.log_video_stats_batch(
        [{"video_id": name, "timestamp": at, "views": 1} for at in (NOW, old)]
    )
    await dao.add_to_watchlist(name)
    assert (await StatsReader().history(name)).num_rows == 2
    await Archiver().run(timedelta(days=7), wait=True)
    assert (await StatsReader().history(name)).num_rows == 2


def work(name: str) -> None:
    """All that a worker does, in a loop of its own and then in another one."""
    asyncio.run(_work(name))
    asyncio.run(_work(name))
    print(name, flush=True)


def forked(name: str) -> None:
    """As a server that loads its program first: a bare fork."""
    child = os.fork()
    if not child:
        try:
            work(name)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def forked_in_loop(name: str) -> None:
    """From inside a running loop whose connections are open."""

    async def fork() -> None:
        async with db.session() as session:
            await session.connection()
            forked(name)
            assert (await StatsReader().history(name)).num_rows == 2

    asyncio.run(fork())


def pooled(method: str) -> None:
    """As a pool of workers that take task after task."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        pool.map(work, ["a", "b", "c", "d"], chunksize=1)


def threads(_: str) -> None:
    """Threads, each with loops of its own."""
    several = [threading.Thread(target=work, args=(name,)) for name in ("a", "b", "c")]
    for one in several:
        one.start()
    for one in several:
        one.join()


WAYS = {
    "fork": lambda: forked("a"),
    "fork-in-loop": lambda: forked_in_loop("a"),
    "prefork-pool": lambda: pooled("fork"),
    "spawn-pool": lambda: pooled("spawn"),
    "threads": lambda: threads(""),
}

if __name__ == "__main__":
    work("parent")
    WAYS[sys.argv[1]]()
    work("parent-again")
