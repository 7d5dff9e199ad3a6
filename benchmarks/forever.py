"""The schedule for ever: years of videos in the ring, the size of the database, and what its size costs.

What is real and what is not:

- Every entry is there: ``--videos`` ids a day for ``--years``, put into the ring by `Ring.rewrite` in
  cohorts of their months, in slices of the positions, month by month; a tenth of them are DORMANT. Each
  month what was published more than WATCHLIST_VAULT_MONTHS ago moves to a file in a local vault, by the
  janitor's own code, in as many slices of the same number of pages as it would be. (With all parts all
  years after the first one come at once.)
- Hot samples (100 MB), a week of `videos` with the free space that updates leave, 11 days of fast rows of the
  watchlist and four of tombstones are loaded once. Their own growth is `retention`'s business.
- ``--days`` days are played at the end of the first year: new rows, rows that turn slow, tombstones, the
  janitor's parking and planning, and the calendar turned by the hour, all by Atlas's own code; what is woken
  is reported by a DELETE. VACUUM is called where autovacuum's rule asks for it. With ``--years 0`` nothing is
  loaded, days are played from the first one on, and at the end every video has to be there once.
- With ``--parts`` fewer than 56, only so many of 56 slices of the positions are filled, and the sizes of
  ring and filter are multiplied; days are not played, nor is measured what depends on the size (claims,
  adding, waking).
- Claims are measured beside a ring of 100,000 entries, in turns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from atlas.archive.export import schedule
from atlas.db import Database
from atlas.repositories.ring.cohorts import ROUND
from atlas.repositories.ring.page import Entries
from atlas.vault import LocalVault
from benchmarks.support import Result, scratch_database
from benchmarks.workers import claiming
from benchmarks.years import ADDED, HOT_BYTES, SLICES, Curve, Load, World, tell

_LIMIT = 500_000_000


async def measure(database: Database, folder: Path, rows: int, load: Load) -> list[Result]:
    """Load and play the first year, load the others, and measure at the end of each."""
    connection = await asyncpg.connect(await database.libpq_url())
    # only some of the positions are filled
    schedule.SLICES = schedule.SLICES * SLICES // load.parts
    schedule.COHORTS_AT_ONCE = 12 * load.years
    schedule.PAGES_A_SLICE = max(1, schedule.PAGES_A_SLICE * load.parts // SLICES)
    results = []
    try:
        world = World(database, connection, load, LocalVault(folder / "vault"))
        await world.load_constants()
        await world.look(first_day=0)
        for _ in range(12 if load.years else 0):
            await world.load_months(1)
        if load.years:
            results += _sizes(world, "the first year")
        before = len(world.curve.days)
        is_whole = load.parts == SLICES
        if load.days and is_whole:
            await world.play(load.days)
            grown = world.curve.ring[-1] - world.curve.ring[before]
            tell(
                f"the ring grew by {grown / max(load.days - 1, 1) / 1e3:.0f} kB a day while days were played"
            )
        if not load.years:
            await world.check(load.days)
            results += _sizes(world, f"{load.days} played days")
        results += await _costs(world) if is_whole and load.years else []
        while world.months < 12 * load.years:
            await world.load_months(12 * load.years - world.months if is_whole else 1)
            await world.move_months()
        if load.years > 1:
            results += _sizes(world, f"{load.years} years")
            results += await _costs(world) if is_whole else []
    finally:
        await connection.close()
    if load.plots is not None:
        draw(world.curve, load)
    return results


def _sizes(world: World, what: str) -> list[Result]:
    curve = world.curve
    largest = Result(
        f"database within {what}",
        max(curve.database) / 1e6,
        "0.5 GB",
        _LIMIT / 1e6,
        "MB",
        1,
        most=True,
    )
    after = next(at for at, day in enumerate(curve.days) if day >= 60)
    grown = (curve.database[-1] - curve.database[after]) / (curve.days[-1] - curve.days[after])
    growth = Result(
        f"growth after day 60 within {what}", grown / 1e3, "goal", 130, "kB a day", 1, most=True
    )
    full = curve.days[-1] + (_LIMIT - curve.database[-1]) / grown
    tell(f"at this rate 0.5 GB is full after {full / 365:.1f} years")
    return [largest, growth]


async def _costs(world: World) -> list[Result]:
    entries = await world.entries("watchlist_ring") + await world.entries("watchlist_filter")
    adds = await world.add_rate()
    seconds, woken = await world.wake_seconds()
    few, many = claiming.Pace(), claiming.Pace()
    async with scratch_database() as other:
        connection = await asyncpg.connect(await other.libpq_url())
        small = World(other, connection, Load(), world.vault)
        try:
            await small.merge(
                0, ROUND - 1, Entries.of(small.positions("few", 100_000, 0, ROUND - 1), 250)
            )
            await world.connection.execute("UPDATE watchlist_cohorts SET turned_at = now()")
            await claiming.compare([(many, world.database), (few, other)])
        finally:
            await small.connection.close()
    what = f"{entries:,} entries"
    return [
        Result(f"add of {ADDED:,}, {what}", adds, "goal", 5_000, "ids/s", 1),
        Result(f"a day's share of {woken:,} woken, {what}", seconds, "goal", 5, "s", 1, most=True),
        Result(f"claims, {what}", many.rate, "100,000 entries", few.rate, goal=0.9),
    ]


def draw(curve: Curve, load: Load) -> None:
    """The database and the ring against years."""
    # here, because it takes half a second to import and the other measurements do without
    from matplotlib.figure import Figure

    assert load.plots is not None
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes: Any = figure.subplots()
    years = np.array(curve.days) / 365
    for values, label in (
        (curve.database, "whole database"),
        (curve.ring, "watchlist_ring"),
        (curve.filter, "watchlist_filter"),
    ):
        axes.plot(years, np.array(values) / 1e6, label=label, marker=".", linewidth=1)
    axes.axhline(_LIMIT / 1e6, label="0.5 GB", color="tab:gray", linestyle="--", linewidth=1)
    axes.set(
        xlabel="years",
        ylabel="MB",
        title=f"{load.videos_a_day:,} new videos a day, {HOT_BYTES / 1e6:.0f} MB of hot samples",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend(loc="upper left", fontsize="small")
    load.plots.mkdir(parents=True, exist_ok=True)
    figure.savefig(load.plots / "forever.svg")
