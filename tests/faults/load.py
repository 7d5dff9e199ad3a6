"""Writers and readers that are at work while the archive suffers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from atlas.db import Database
from atlas.errors import Unavailable, VaultError
from atlas.ingest import record_samples
from atlas.types import Sample
from atlas.vault import Vault
from tests.faults.truth import Truth, shown_by_reader
from tests.support.children.archive_child import SPAN
from tests.support.samples import OLD, Key

#: Seconds between two tries at a server that is down, and between two looks: leaves the others some of
#: the two cores.
_AGAIN = 0.03


class Writer:
    """Writes new, late, repeated and corrected samples, to PostgreSQL and as appended metrics.

    One thing at a time, so that it is known which write is the last one. A write whose answer was lost is
    tried again until it is acknowledged.
    """

    def __init__(
        self, database: Database, vault: Vault, truth: Truth, seed: int, *, appends: bool = False
    ) -> None:
        self.database, self.vault, self.truth = database, vault, truth
        self.dice = random.Random(seed)
        self.appends = appends
        self._undelivered: dict[Key, int] = {}
        self._views = 0

    async def write(self, rows: list[Sample]) -> None:
        """Write samples to PostgreSQL until that is acknowledged."""
        written = self.truth.attempt(rows)
        while True:
            try:
                await record_samples(self.database, rows)
            except Unavailable:
                await asyncio.sleep(_AGAIN)
            else:
                break
        self.truth.acknowledge(written)

    async def append(self, rows: list[Sample]) -> None:
        """Append samples as metrics; they count once the store has them."""
        self._undelivered |= self.truth.attempt(rows)
        fields = ("video_id", "timestamp", "views", "likes", "comment_count")
        records = [{name: getattr(row, name) for name in fields} for row in rows]
        await asyncio.to_thread(self.vault.append_metrics, records)
        if not self.vault.pending().count:
            self._acknowledge_appended()

    async def settle(self, vault: Vault) -> None:
        """Deliver what waits for the store, by a vault whose store works."""
        await asyncio.to_thread(vault.flush)
        self._acknowledge_appended()

    async def write_something(self) -> None:
        """One batch of a random kind."""
        if self.appends and self.dice.random() < 0.3:
            # outside of what is restored: a hot copy would outdo what is appended later
            hour = OLD + timedelta(hours=self.dice.randrange(12, 24))
            rows = [self._sample(f"metric-{self.dice.randrange(6)}", hour) for _ in range(5)]
            await self.append(rows)
            return
        rows = [self._any_sample() for _ in range(self.dice.randint(1, 30))]
        await self.write(rows)
        if self.appends and self.dice.random() < 0.2:
            # the same samples once more, by the other way in
            await self.append([row for row in rows if row.timestamp < SPAN[0]])

    @contextlib.asynccontextmanager
    async def at_work(self, batches: int) -> AsyncIterator[None]:
        """Write so many batches meanwhile; the last one is finished before this ends."""

        async def write() -> None:
            for _ in range(batches):
                await self.write_something()
                # leaves the others some of the two cores; nothing depends on it
                await asyncio.sleep(self.dice.random() * 0.02)

        async with _together(write()):
            yield

    def _any_sample(self) -> Sample:
        kind = self.dice.choice(("new", "late", "late", "corrected", "repeated"))
        video = f"video-{self.dice.randrange(25):04d}"
        if kind == "new":
            minutes = timedelta(minutes=self.dice.randrange(600))
            return self._sample(video, datetime.now(UTC).replace(microsecond=0) - minutes)
        if kind == "late" or not self.truth.floor:
            return self._sample(video, OLD + timedelta(minutes=self.dice.randrange(0, 30 * 60, 7)))
        key = self.dice.choice([key for key in self.truth.floor if key[0].startswith("video-")])
        if kind == "corrected":
            return self._sample(*key)
        return Sample(*key, *self.truth.versions[key][-1])

    def _sample(self, video_id: str, moment: datetime) -> Sample:
        # a number of its own for every version, so that it is known which one is shown
        self._views += 1
        likes = None if self._views % 5 == 0 else self._views * 2
        return Sample(video_id, moment, self._views, likes, self._views % 7)

    def _acknowledge_appended(self) -> None:
        self.truth.acknowledge(self._undelivered)
        self._undelivered = {}


class Reader:
    """Reads everything again and again, and has the truth judge it.

    With ``may_break`` a read may fail, because what it was reading is deleted; it must not mislead.
    """

    def __init__(
        self, database: Database, vault: Vault, truth: Truth, *, may_break: bool = False
    ) -> None:
        self.database, self.vault, self.truth = database, vault, truth
        self.tolerated = (Unavailable, VaultError) if may_break else (Unavailable,)
        self.looks = 0

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Read all the while. A server or store that is down may stop a read, but not mislead it."""
        stop = asyncio.Event()

        async def read() -> None:
            while not stop.is_set():
                floor = dict(self.truth.floor)
                try:
                    shown = await shown_by_reader(self.database, self.vault)
                except self.tolerated:
                    await asyncio.sleep(_AGAIN)
                    continue
                self.truth.judge(shown, floor, settled=False)
                self.looks += 1
                await asyncio.sleep(_AGAIN)

        async with _together(read()):
            try:
                yield
            finally:
                stop.set()


@contextlib.asynccontextmanager
async def _together(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do ``work`` meanwhile; its failure is this one's."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await task
