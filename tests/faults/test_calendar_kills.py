"""A process that parks, wakes, plans, reports or forgets is killed between any two of its statements."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from atlas.db import Database
from atlas.repositories.ring.page import DORMANT
from atlas.scheduling.calendar import Calendar
from atlas.vault import LocalVault
from tests.support.children import calendar_child
from tests.support.parked import (
    check_whole,
    in_ring,
    parked,
    parked_long_ago,
    slow_rows,
    video_ids,
)
from tests.support.sql import execute, fetch, scalar

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


class Mortal:
    """Does each job until one attempt lives long enough, and looks after each death."""

    def __init__(self, database: Database, forks: calendar_child.Forks) -> None:
        self.database, self.forks = database, forks
        self.ids: set[str] = set()
        self.known: set[str] = set()
        self.deaths = 0
        self.vault: LocalVault | None = None

    async def do(
        self,
        job: str,
        now: datetime,
        *ids: str,
        gone: set[str] | None = None,
        every: int = 1,
        leaving: bool = False,
        **environment: str,
    ) -> None:
        """The job, which takes ``gone`` off the watchlist; killed at ``every`` so manyth statement.

        ``leaving``: in the meantime some of those may be there and others not.
        """
        for kill_at in count(1, step=every):
            lived = await asyncio.to_thread(
                self.forks.run, job, now, list(ids), kill_at, **environment
            )
            if lived:
                break
            self.deaths += 1
            # at the latest the commit decides; nobody dies after it but in the next transaction
            if not leaving:
                await check_whole(self.database, self.ids, self.known, self.vault)
        self.ids -= gone or set()
        await check_whole(self.database, self.ids, self.known, self.vault)


@pytest.fixture
def forks(database_url: str) -> Iterator[calendar_child.Forks]:
    forks = calendar_child.Forks(make_url(database_url).render_as_string(hide_password=False))
    yield forks
    forks.close()


async def test_a_death_between_any_two_statements_loses_no_video_and_doubles_none(
    database: Database, forks: calendar_child.Forks
) -> None:
    mortal = Mortal(database, forks)
    early, late, collected = video_ids(60), video_ids(30, start=100), video_ids(20, start=200)
    # early ones are in the ring for weeks
    await parked(database, early, now=NOW - 30 * DAY)
    await slow_rows(database, late)
    await execute(
        database,
        "INSERT INTO video_tombstones (video_id) SELECT unnest(CAST(:ids AS text[]))",
        ids=collected,
    )
    mortal.ids, mortal.known = {*early, *late}, set(collected)

    await mortal.do("park", NOW)
    assert sorted(await in_ring(database, late + collected)) == sorted(late + collected)

    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    await mortal.do("turn", NOW)
    woken = [row["video_id"] for row in await fetch(database, "SELECT video_id FROM watchlist")]
    assert sorted(woken) == sorted(early)

    await mortal.do("plan", NOW, every=3, TRACKING_SAMPLES_PER_DAY="10")
    assert await scalar(database, "SELECT max(interval) FROM watchlist_cohorts") > 7 * DAY

    # from one cohort to another: what was weekly is left out three times, and parked again
    await execute(
        database,
        "UPDATE watchlist SET tracking_tier = 'DORMANT', omissions = 3, woken_at = '-infinity', "
        "last_tracked_at = now() - interval '1 day', next_track_at = now() + interval '29 days' "
        "WHERE video_id = ANY (CAST(:ids AS text[]))",
        ids=woken[:25],
    )
    await mortal.do("park", NOW, every=3)
    assert set((await in_ring(database, woken[:25])).values()) == {DORMANT}

    await mortal.do("report", NOW, *woken[:3], *late[:3])
    assert (
        await scalar(database, "SELECT count(*) FROM watchlist WHERE tracking_tier = 'HOURLY'") == 6
    )

    gone = [*woken[:2], *late[:2], *early[-2:]]
    await mortal.do("forget", NOW, *gone, gone=set(gone))
    assert not await in_ring(database, gone)
    print(f"{mortal.deaths} deaths")
    assert mortal.deaths > 20


async def test_a_death_between_ring_and_vault_loses_no_video_and_doubles_none(
    database: Database, forks: calendar_child.Forks, tmp_path: Path
) -> None:
    mortal = Mortal(database, forks)
    mortal.vault, where = LocalVault(tmp_path / "vault"), str(tmp_path / "vault")
    old, older, young = video_ids(60), video_ids(40, start=100), video_ids(20, start=200)
    await parked_long_ago(database, old, NOW - 30 * DAY)
    await parked_long_ago(database, older, NOW - 30 * DAY, years=5)
    await parked(database, young, now=NOW - 30 * DAY)
    mortal.ids = {*old, *older, *young}

    await mortal.do("move", NOW, where, every=2)
    assert sorted(await in_ring(database, old + older + young)) == sorted(young)

    # what is awake is a row besides, and known by the files: the reports end the rows
    await execute(database, "UPDATE watchlist_cohorts SET interval = interval '1 day'")
    await execute(database, "UPDATE watchlist_cohorts SET turned_at = :at", at=NOW - DAY)
    await Calendar(database, lambda: mortal.vault.store).turn(NOW)
    rows = {row["video_id"] for row in await fetch(database, "SELECT video_id FROM watchlist")}
    assert rows == mortal.ids

    gone = {old[0], older[0]}
    await mortal.do("erase", NOW, where, *gone, gone=gone, leaving=True, every=3)
    await mortal.do("restore", NOW, where, every=2)
    assert sorted(await in_ring(database, old + older + young)) == sorted(mortal.ids)
    assert await scalar(database, "SELECT count(*) FROM watchlist_filter") == 1
    print(f"{mortal.deaths} deaths")
    assert mortal.deaths > 50


async def test_a_downgrade_that_is_killed_leaves_the_ring_as_it_was(
    database: Database, forks: calendar_child.Forks
) -> None:
    ids = video_ids(40)
    await parked(database, ids)
    for kill_at in count(1, step=3):
        if await asyncio.to_thread(forks.run, "downgrade", NOW, ["2026_11_27_forever-1"], kill_at):
            break
        await check_whole(database, ids)
    rows = await fetch(database, "SELECT video_id FROM watchlist")
    assert sorted(row["video_id"] for row in rows) == sorted(ids)
