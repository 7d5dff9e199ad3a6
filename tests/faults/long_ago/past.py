"""The databases, backups, processes and the vault of a random history, and what is known of its videos."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import make_url

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import ArchiverBusy, VaultUnavailable
from atlas.reading.footers import footers
from atlas.reading.schedule import bounds, row_groups
from atlas.scheduling.undecided import rests
from atlas.vault import LocalVault
from tests.faults.long_ago.whole import Truth, ids_found
from tests.support.children import calendar_child
from tests.support.parked import neighbour, video_ids
from tests.support.servers.postgres import Server, name_of
from tests.support.sql import fetch

DAY = timedelta(days=1)
#: A statement that no job reaches.
_NEVER = 10**9
#: Years since publication, by the id's first character.
_YEARS = (3, 3, 3, 5, 5, 0.2)

Act = Callable[[], Awaitable[None]]


@dataclass
class Backup:
    """A copy of the database, and what was on its watchlist, and collected."""

    url: str
    listed: set[str]
    collected: set[str]
    #: Files may have been retired since, in favour of a ring that this copy does not have.
    is_outdated: bool = False


class Past:
    """Where a history takes place. ``trace`` says what it did."""

    def __init__(self, server: Server, template: str, folder: Path, seed: int) -> None:
        self.server, self.template, self.seed = server, template, seed
        self.random = Random(seed)
        self.where = str(folder / "vault")
        self.vault = LocalVault(Path(self.where))
        self.urls: list[str] = []
        self.url = self._create(template)
        self.database = Database(self.url)
        self.forks = calendar_child.Forks(make_url(self.url).render_as_string(hide_password=False))
        self.truth = Truth()
        self.backups: list[Backup] = []
        self.now = datetime.now(UTC) - 60 * DAY
        self.fresh = iter(video_ids(5_000, start=seed * 10_000))
        self.trace: list[str] = []
        self.alone = asyncio.Lock()
        self.deaths = 0
        self.adoptions = 0

    def _create(self, template: str) -> str:
        self.urls.append(self.server.create(template))
        return self.urls[-1]

    async def close(self) -> None:
        """End the processes, and drop every database."""
        self.forks.close()
        await self.database.close()
        for url in self.urls:
            await asyncio.to_thread(self.server.drop, url)

    # what may happen

    async def at_once(self, acts: Collection[Act]) -> None:
        """Acts in tasks of their own; one that fails fails after the others have ended."""
        self.trace.append(" | ".join(act.__name__ for act in acts))
        found = await asyncio.gather(*(act() for act in acts), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error

    def published(self, video_id: str) -> datetime:
        """When a video was; it never changes."""
        return datetime.now(UTC) - 365 * DAY * _YEARS[ord(video_id[0]) % len(_YEARS)]

    def new(self, count: int) -> list[str]:
        """Ids that nobody has seen, half of them alike to one on the list."""
        ids = []
        for _ in range(count):
            one = next(self.fresh)
            if self.truth.listed and self.random.random() < 0.5:
                alike = neighbour(self.random.choice(sorted(self.truth.listed)))
                if not self.is_known(alike) and alike not in ids:
                    one = alike
            ids.append(one)
        return ids

    def is_known(self, video_id: str) -> bool:
        """Whether anything was done with the id."""
        truth = self.truth
        return video_id in truth.listed | truth.collected | truth.forgotten | truth.leaving

    def some(self, ids: Collection[str], most: int) -> list[str]:
        """Some of these ids, or none."""
        count = min(len(ids), self.random.randint(0, most))
        return self.random.sample(sorted(ids), count)

    def mixed(self) -> list[str]:
        """Ids of every kind."""
        truth = self.truth
        ids = self.new(self.random.randint(1, 6)) + self.some(truth.listed, 6)
        return ids + self.some(truth.forgotten, 2) + self.some(truth.collected, 3)

    @property
    def dao(self) -> MaiaDAO:
        """One that nobody has used before."""
        return MaiaDAO(self.database, self.vault)

    _is_away = False

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """The vault does not answer this process."""

        def no_answer(*_: object) -> None:
            raise VaultUnavailable("no answer")

        row_groups.clear()
        bounds.clear()
        footers.clear()
        self.trace.append("the vault is away:")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(self.vault.store), "open", no_answer)
            self._is_away = True
            try:
                yield
            finally:
                self._is_away = False
                rests.clear()

    async def fork(self, job: str, *ids: str) -> bool:
        """Do it in a process, which may be killed; returns whether it lived."""
        kill_at = int(2 ** self.random.uniform(0, 8)) if self.random.random() < 0.6 else _NEVER
        url = make_url(self.url).render_as_string(hide_password=False)
        lived = await self._forking(job, list(ids), kill_at, url)
        self.deaths += not lived
        self.trace.append(f"  {job}: {'done' if lived else f'killed at {kill_at}'}")
        return lived

    async def _forking(self, job: str, ids: list[str], kill_at: int, url: str) -> bool:
        async with self.alone:
            return await asyncio.to_thread(self.forks.run, job, self.now, ids, kill_at, url)

    async def until_done(self, job: str) -> None:
        """Do it in processes that are killed, until one is not."""
        while not await self.fork(job, self.where):
            pass

    # backups

    async def settle(self) -> None:
        """What died is done again, until it is done."""
        self.trace.append("settle")
        if ids := sorted(self.truth.leaving):
            await self.patiently(lambda: Archiver(self.database, self.vault).forget(ids))
            self.truth.forgotten |= {*ids}
            self.truth.listed -= {*ids}
            self.truth.leaving.clear()
        await self.patiently(lambda: Archiver(self.database, self.vault).run())
        self.truth.listed -= self.truth.forgotten
        assert await Archiver(self.database, self.vault).fsck() == []
        assert not self.in_objects() & self.truth.forgotten

    async def patiently(self, act: Callable[[], Awaitable[object]]) -> None:
        """Until the connection of a process that died has let the lock go."""
        while True:
            try:
                await act()
                return
            except ArchiverBusy:
                await asyncio.sleep(0.01)

    async def replace(self, template: str) -> None:
        """Go on with a copy of another database."""
        await self.database.close()
        name = template if template == self.template else name_of(template)
        self.url = await asyncio.to_thread(self._create, name)
        self.database = Database(self.url)
        self.adoptions += 1

    async def filed(self) -> set[str]:
        """Ids in the files of the schedule that count."""
        return await self.in_files("schedule")

    async def in_files(self, dataset: str) -> set[str]:
        """Ids in the files of a table that count."""
        rows = await fetch(
            self.database,
            "SELECT object_key FROM archive_files WHERE dataset = :dataset AND state = 'live'",
            dataset=dataset,
        )
        ids: set[str] = set()
        for row in rows:
            table = pq.read_table(Path(self.where, row["object_key"]), partitioning=None)
            ids |= {*table["video_id" if dataset == "schedule" else "id"].to_pylist()}
        return ids

    def in_objects(self) -> set[str]:
        """Ids in the objects of the schedule, whether they count or not."""
        paths = Path(self.where, "schedule").rglob("*.parquet")
        tables = [pq.read_table(path, partitioning=None) for path in paths]
        return {one for table in tables for one in table["video_id"].to_pylist()}

    async def ids_of(self, query: str) -> set[str]:
        """The ids that a query finds here."""
        return await ids_found(self.database, query)

    # what has to hold
