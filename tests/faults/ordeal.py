"""A schedule of faults on its way, with a writer and a reader at work, on a vault of any provider."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from atlas.archive import Archiver
from atlas.db import Database
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.types import ArchiveState, Dataset
from atlas.vault import Vault
from tests.faults.load import Reader, Writer
from tests.faults.schedule import Illness, Round, Schedule, may_damage
from tests.faults.truth import Truth, in_contents, in_tables, shown_by_reader
from tests.support.children.archive_child import RETENTION, Child
from tests.support.faulty_store import Faults, FaultyStore
from tests.support.places import Place
from tests.support.samples import OLD, samples
from tests.support.servers.cluster import Cluster
from tests.support.sql import execute, fetch, scalar

#: A lease so short that the one of a killed archiver is over when the next round begins.
LEASE_SECONDS = 0.4


class Site:
    """Where the vault lies. This one is a folder; others have a server that may fall ill.

    A job gives a request up after ``patience`` seconds.
    """

    patience: float | None = None

    def __init__(self, place: Place) -> None:
        self.place = place

    def vault(self, faults: Faults | None = None) -> Vault:
        """The vault, through an ill store if there are ``faults``."""
        vault = self.place.vault()
        if faults is not None:
            vault.store = FaultyStore(vault.store, faults)
        return vault

    def contents(self) -> dict[str, bytes]:
        """Every Parquet file by its key, past the vault."""
        folder = Path(self.place.where)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*.parquet")
        }

    def fall_ill(self, illness: Illness, victim: Child) -> None:
        """From now on requests fail."""
        raise NotImplementedError

    def recover(self) -> None:
        """No request fails any more."""


def under(files: Mapping[str, bytes], folder: str) -> list[bytes]:
    """The contents of the files in a folder."""
    return [content for key, content in files.items() if key.startswith(f"{folder}/")]


class Ordeal:
    """A schedule on its way."""

    def __init__(
        self, schedule: Schedule, cluster: Cluster, database: Database, start: Any, site: Site
    ) -> None:
        self.schedule, self.cluster, self.database = schedule, cluster, database
        self.start, self.site = start, site
        self.vault = site.vault()
        self.truth = Truth()
        self.writer = Writer(
            database,
            site.vault(schedule.ill_appends),
            self.truth,
            schedule.seed,
            appends=schedule.appends,
        )
        self.round = 0
        self.children: list[Child] = []

    async def undergo(self) -> None:
        """The whole of it; a failure tells the schedule, the round and what the children said."""
        try:
            await self._undergo()
        except BaseException as error:
            error.add_note(f"{self.schedule}\nround {self.round}\n{self._told()}")
            raise

    async def _undergo(self) -> None:
        await self.writer.write(samples(videos=21, times=24))
        await execute(
            self.database,
            "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
            "SELECT 'doomed-' || n, 'A title', 'DONE', true, true, now() - interval '30 days' "
            "FROM generate_series(1, 20) n",
        )
        if self.schedule.cold:
            await Archiver(self.database, self.vault).run(RETENTION)
            await self.writer.write_something()
        for number, one in enumerate(self.schedule.rounds, 1):
            self.round = number
            reader = Reader(
                self.database,
                self.site.vault(self.schedule.ill_reads),
                self.truth,
                may_break=self.schedule.breaks_scans,
            )
            async with reader.at_work(), self.writer.at_work(one.batches):
                await self._suffer(one)
                self.site.recover()
            await self.writer.settle(self.vault)
            await self._check()
        self.round += 1
        await self._finish()

    def _told(self) -> str:
        return "\n".join(child.told() for child in self.children)

    async def _suffer(self, one: Round) -> None:
        self.children = [self._child(one.job, one)]
        if one.second is not None:
            self.children.append(self._child(one.second))
        first = self.children[0]
        if one.service is not None:
            self.site.fall_ill(one.service, first)
        if one.kill_after is not None:
            await first.ended(one.kill_after)
            first.kill()
        if one.postgres_dies_after is not None:
            await first.ended(one.postgres_dies_after)
            await asyncio.to_thread(self.cluster.kill)
            await asyncio.to_thread(self.cluster.start)
        for child in self.children:
            code = await child.code()
            assert code in one.endings, f"{child.orders.job} ended with {code}"

    def _child(self, job: str, one: Round | None = None) -> Child:
        forgotten = (f"video-{self.round:04d}",) if job == "forget" else ()
        for video_id in forgotten:
            self.truth.forget(video_id)
        child: Child = self.start(
            self.database,
            job,
            *forgotten,
            kill_at=one.kill_at if one else None,
            faults=one.faults if one else None,
            place=self.site.place,
            patience=self.site.patience,
            lease_seconds=LEASE_SECONDS,
        )
        return child

    async def _check(self) -> None:
        """Promises 1 and 2, by the reader; and without it, that every sample lies in a table or a file."""
        shown = await shown_by_reader(self.database, self.vault)
        self.truth.judge(shown, dict(self.truth.floor), settled=True)
        assert shown == self.truth.newest()
        assert await StatsReader(self.database, self.vault).count() == len(shown)
        damaged = may_damage(self.schedule.rounds[: self.round])
        files = self.site.contents()
        lying = in_contents(under(files, Dataset.STATS), damaged=damaged)
        lying |= in_contents(under(files, Dataset.METRICS))
        lying |= await in_tables(self.database)
        assert shown.keys() <= lying, f"{len(shown.keys() - lying)} lie nowhere"
        assert lying <= self.truth.versions.keys()

    async def _finish(self) -> None:
        """A run without faults brings everything in order, with no hand."""
        self.children = []
        archiver = Archiver(self.database, self.vault)
        await archiver.run(RETENTION, wait=True)
        await archiver.release()
        await archiver.run(RETENTION)
        await Janitor(self.database, self.vault).run()
        await archiver.collect_garbage(timedelta(0))
        await self._check()
        rows = await fetch(self.database, "SELECT * FROM archive_files")
        assert {row["state"] for row in rows} <= {ArchiveState.LIVE, ArchiveState.GONE}
        assert [row for row in rows if row["relation"] is not None] == []
        files = [row for row in rows if row["state"] == ArchiveState.LIVE]
        sealed = "SELECT count(*) FROM pg_class WHERE relname LIKE 'video\\_stats\\_log\\_sealed%'"
        assert await scalar(self.database, sealed) == 0
        contents = self.site.contents()
        for file in files:
            content = contents[file["object_key"]]
            assert len(content) == file["byte_size"]
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
        kept = {info.key for name in Dataset for info in self.vault.store.list(name)}
        appended = {info.key for info in self.vault.store.list(Dataset.METRICS)}
        assert kept - appended == {file["object_key"] for file in files}
        assert await archiver.fsck(deep=True) == []
        # everything old is in files, for a program that reads the folder only
        # what is appended of a video that is gone nobody is shown, and compaction leaves it out: the
        # vault by itself knows no forgotten ids
        appended_rows = in_contents(under(contents, Dataset.METRICS))
        archived = in_contents(under(contents, Dataset.STATS))
        archived |= {key for key in appended_rows if key[0] not in self.truth.gone}
        assert archived == {key for key in self.truth.newest() if key[1] < OLD + timedelta(days=2)}
        # and of what was forgotten nothing is left anywhere
        assert not self.truth.gone & {video_id for video_id, _ in await in_tables(self.database)}
