"""What has to hold of a watchlist of which a part lies in the vault, whatever has happened to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from atlas.db import Database
from atlas.reading.schedule import ScheduleReader
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.cohorts import CohortReader
from atlas.repositories.ring.filter import FilterReader, prefixes_of
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.pages import Answers, RingReader
from atlas.repositories.ring.positions import LAST_POSITION, ids_of
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling.calendar import Calendar
from atlas.scheduling.undecided import Undecided, until_decided
from atlas.vault import LocalVault
from tests.support.sql import execute, fetch


@dataclass
class Truth:
    """What has to hold: ids on the watchlist, collected ones, those that were forgotten, and those of whom an
    erasure has begun, and died."""

    listed: set[str] = field(default_factory=set)
    collected: set[str] = field(default_factory=set)
    forgotten: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)


async def ids_found(database: Database, query: str) -> set[str]:
    """The ids that a query finds."""
    return {next(iter(row.values())) for row in await fetch(database, query)}


async def check(database: Database, vault: LocalVault, truth: Truth, *, doubled: bool) -> None:
    """Everything is where it has to be; ``doubled``: an adoption may have found a row's video in a file."""
    async with database.transaction(read_only=True, isolation="REPEATABLE READ") as session:
        entries = await RingReader(session).between(0, LAST_POSITION)
        pairs = await FilterReader(session).between(0, LAST_POSITION)
        cohorts = await CohortReader(session).all()
        matched = {*zip(pairs.prefixes.tolist(), pairs.cohorts.tolist(), strict=True)}
        sampled = {*ids_of(entries.taken(entries.cohorts != KNOWN).positions)}
        for file in await ScheduleFiles(session).live():
            filed = ScheduleReader(vault.store).between(file, 0, LAST_POSITION).positions
            prefixes = prefixes_of(filed).tolist()
            sampled |= {
                video_id
                for video_id, prefix in zip(ids_of(filed), prefixes, strict=True)
                if (prefix, file.cohort) in matched
            }
    found = await fetch(database, "SELECT video_id, woken_at FROM watchlist")
    rows = {row["video_id"]: row["woken_at"] for row in found}
    gone = truth.forgotten | truth.leaving
    there = (sampled | rows.keys()) - gone
    lost, strange = truth.listed - gone - there, there - truth.listed
    assert not lost and not strange, f"lost: {lost}, strange: {strange}"
    woken = {one for one, moment in rows.items() if moment is not None}
    assert woken <= sampled | gone, f"woken from nowhere: {woken - sampled}"
    if not doubled:
        assert not (rows.keys() - woken) & sampled - gone
    assert not rows.keys() & truth.forgotten
    counted = Counter(entries.cohorts.tolist())
    assert {one.number: one.in_ring for one in cohorts if one.in_ring} == counted
    again = await ids_found(database, "SELECT id FROM videos") & (truth.collected | truth.forgotten)
    assert not again, f"collected again: {again}"


async def check_outside(database: Database, vault: LocalVault, truth: Truth) -> None:
    """What was added is there, what was forgotten stays out: adding it adds nothing."""
    added: list[str] = []

    async def add(only: Any, answers: Answers | None) -> Undecided:
        async with database.transaction() as session:
            watchlist = Watchlist(session, answers)
            await watchlist.add(NewEntry(one) for one in (ids if only is None else only))
            added.extend(watchlist.added)
            return watchlist.undecided

    ids = sorted(truth.listed - truth.leaving | truth.forgotten)
    assert not await until_decided(database, lambda: vault.store, add)
    assert not added, f"added again: {added}"


async def check_rounds(
    database: Database, vault: LocalVault, truth: Truth, now: datetime
) -> datetime:
    """Two rounds wake every video that is no row, and nobody else; returns when they are over."""
    ordinary = await ids_found(
        database, "SELECT video_id FROM watchlist WHERE woken_at IS NULL OR woken_at = '-infinity'"
    )
    await execute(database, "DELETE FROM watchlist WHERE woken_at > '-infinity'")
    await execute(
        database,
        "UPDATE watchlist_cohorts SET turned_at = :now, interval = interval '1 day' "
        "WHERE cohort > 0",
        now=now,
    )
    woken: Counter[str] = Counter()
    calendar = Calendar(database, lambda: vault.store)
    for _ in range(9):
        now += timedelta(hours=6)
        await calendar.turn(now)
        awake = await ids_found(
            database, "SELECT video_id FROM watchlist WHERE woken_at > '-infinity'"
        )
        woken.update(awake)
        await execute(database, "DELETE FROM watchlist WHERE woken_at > '-infinity'")
    listed = truth.listed
    assert (
        woken.keys() | ordinary == listed
    ), f"not woken: {listed - woken.keys() - ordinary}, strange: {woken.keys() - listed}"
    return now
