"""A database that can be copied, put back and lost, beside a vault that goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD
from tests.support.servers.postgres import Server, name_of

WEEK = timedelta(days=7)


class History:
    """A database, and the vault that it archives into. Samples lie an hour after `OLD`, unless told."""

    def __init__(self, server: Server, template: str, folder: Path) -> None:
        self.server, self.template, self.folder = server, template, folder
        self.vault = LocalVault(folder, home=folder.parent / "home")
        self.urls: list[str] = []
        self.current = self.create(template)
        self.database = Database(self.current)

    def create(self, template: str) -> str:
        """A database, dropped with the others."""
        url = self.server.create(template)
        self.urls.append(url)
        return url

    async def close(self) -> None:
        """Drop every database."""
        await self.database.close()
        for url in self.urls:
            await asyncio.to_thread(self.server.drop, url)

    @property
    def archiver(self) -> Archiver:
        """The archiver of the database as it is now."""
        return Archiver(self.database, self.vault)

    async def write(self, video_id: str, views: int, hour: int = 1) -> None:
        """A hot sample."""
        await record_samples(self.database, [Sample(video_id, OLD + timedelta(hours=hour), views)])

    def append(self, video_id: str, views: int, hour: int = 1) -> int:
        """An appended sample."""
        at = OLD + timedelta(hours=hour)
        return self.vault.append_metrics([{"video_id": video_id, "timestamp": at, "views": views}])

    async def archive(self, video_id: str, views: int, hour: int = 1) -> None:
        """A sample that is hot and then cold."""
        await self.write(video_id, views, hour)
        await self.archiver.run(WEEK)

    async def seen(self, database: Database | None = None) -> dict[str, int]:
        """What the reader shows, as ``{"A@1": 5}``; fails where a sample comes twice."""
        shown: dict[str, int] = {}
        async for batch in StatsReader(database or self.database, self.vault).scan():
            for row in batch.to_pylist():
                hour = (row["timestamp"] - OLD) // timedelta(hours=1)
                name = f"{row['video_id']}@{hour}"
                assert name not in shown, f"{name} comes twice"
                shown[name] = row["views"]
        assert await StatsReader(database or self.database, self.vault).count() == len(shown)
        return shown

    async def backup(self) -> str:
        """A backup; the database goes on."""
        await self.database.close()
        url = await asyncio.to_thread(self.create, name_of(self.current))
        self.database = Database(self.current)
        return url

    async def put_back(self, backup: str) -> None:
        """The backup takes the database's place."""
        await self.database.close()
        self.current = await asyncio.to_thread(self.create, name_of(backup))
        self.database = Database(self.current)

    async def lose(self) -> None:
        """A new, empty database takes the database's place."""
        await self.put_back(self.server.database_url(self.template))

    async def copied_at(
        self,
        monkeypatch: pytest.MonkeyPatch,
        where: tuple[Any, str],
        job: Callable[[], Awaitable[object]],
    ) -> str:
        """Run a job; the database is copied at the first call of a coroutine function."""
        owner, name = where
        real, taken = getattr(owner, name), list[str]()

        async def hook(*args: Any, **more: Any) -> Any:
            if not taken:
                await (await self.database.engine()).dispose()
                taken.append(await asyncio.to_thread(self.create, name_of(self.current)))
            return await real(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, hook)
            # the lock as a lease: no connection stays open
            patch.setitem(os.environ, "DATABASE_POOL_MODE", "transaction")
            reset_settings()
            await job()
        reset_settings()
        return taken[0]

    def files(self, *folders: str) -> list[str]:
        """Keys of the objects in data folders."""
        return [
            info.key
            for folder in folders or ("video_stats", "metrics", "videos")
            for info in self.vault.store.list(folder)
        ]

    async def sql(self, statement: str, database: Database | None = None) -> Any:
        """The first value that a statement gives, committed."""
        async with (database or self.database).transaction() as session:
            result = await session.execute(text(statement))
            return result.scalar() if result.returns_rows else None  # type: ignore[attr-defined]

    async def age(self) -> None:
        """Nine days pass for the vault's files and the ledger."""
        old = (datetime.now(UTC) - timedelta(days=9)).timestamp()
        for path in self.folder.rglob("*.parquet"):
            os.utime(path, (old, old))
        await self.sql(
            "UPDATE archive_files SET retired_at = retired_at - interval '9 days', "
            "live_at = live_at - interval '9 days', sealed_at = sealed_at - interval '9 days'"
        )

    async def clean(self) -> tuple[str, ...]:
        """A clean-up, nine days later; gives what it deleted."""
        await self.age()
        return (await self.archiver.collect_garbage()).keys


async def in_order(history: History, shown: dict[str, int]) -> None:
    """Ledger and vault agree, and it stays so through every job and past the grace period."""
    assert await history.seen() == shown
    assert [one.kind for one in await history.archiver.fsck(deep=True)] == []
    await history.archiver.run(WEEK)
    await history.archiver.compact()
    await history.clean()
    assert await history.seen() == shown
    assert [one.kind for one in await history.archiver.fsck(deep=True)] == []
