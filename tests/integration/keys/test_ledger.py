"""What processes share about keys, on real PostgreSQL: grants, settlements, rests, breakers, notices."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from atlas.db import Database
from atlas.repositories.keys import BLOCK, Grant, KeyLedger, Rest

NOON = datetime(2026, 7, 1, 19, tzinfo=UTC)
DAY = date(2026, 7, 1)


async def settle(database: Database, holder: str, **changes: object) -> Grant:
    values: dict[str, object] = {
        "total": 0,
        "settled": 0,
        "in_flight": 0,
        "need": 1,
        "limit": 1_000,
        "at": NOON,
    }
    async with database.autocommit() as session:
        return await KeyLedger(session).settle(
            "p", "general", DAY, holder=holder, **{**values, **changes}  # type: ignore[arg-type]
        )


async def test_blocks_shrink_as_the_quota_does_and_units_go_one_by_one_at_the_end(
    database: Database,
) -> None:
    assert (await settle(database, "a")).units == BLOCK
    assert (await settle(database, "b")).units == BLOCK
    # 1000 - 900 spent - 50 leased to b = 50 left, a quarter of that for each of two holders
    assert (await settle(database, "a", total=900)).units == 50 // 8
    assert (await settle(database, "a", total=948, settled=900, limit=1_000)).units == 1
    await settle(database, "b", need=0)
    assert (
        await settle(database, "a", total=1_000, settled=948)
    ).units == 1  # the API's word decides
    assert (await settle(database, "b")).units == 0  # one at a time
    await settle(database, "a", total=1_001, settled=1_000, need=0)
    assert (await settle(database, "b")).units == 1


async def test_past_the_limit_as_many_go_at_once_as_were_proved_to_be_there(
    database: Database,
) -> None:
    await settle(database, "a", total=1_010, need=0)
    grants = [(await settle(database, f"h{n}")).units for n in range(12)]
    assert sum(grants) == 10


async def test_a_repeated_settlement_counts_once(database: Database) -> None:
    for _ in range(3):
        grant = await settle(database, "a", total=7)
    assert grant.usage.spent == 7
    assert (await settle(database, "a", total=9, settled=7)).usage.spent == 9
    assert (await settle(database, "b", total=2)).usage.spent == 11


async def test_units_of_a_dead_holder_come_back_when_its_lease_ends(database: Database) -> None:
    await settle(database, "dead", limit=50, need=50)
    assert (await settle(database, "a", limit=50)).units == 0
    later = NOON + timedelta(seconds=61)
    assert (await settle(database, "a", limit=50, at=later)).units == 50 // 4


async def test_units_in_flight_stay_leased_and_are_not_granted_again(database: Database) -> None:
    assert (await settle(database, "a", limit=10, need=8)).units == 8
    assert (await settle(database, "a", limit=10, in_flight=8, need=0)).units == 0
    assert (await settle(database, "b", limit=10, need=3)).units == 0
    assert (await settle(database, "b", limit=10, need=2)).units == 2


async def test_nothing_is_granted_for_a_day_that_is_over(database: Database) -> None:
    tomorrow = NOON + timedelta(days=1)
    grant = await settle(database, "a", total=5, at=tomorrow)
    assert (grant.units, grant.usage.spent) == (0, 5)


@pytest.mark.parametrize(
    ("moment", "day", "ends"),
    [
        ("2026-03-08T07:59:59", date(2026, 3, 7), "2026-03-08T08:00:00"),
        ("2026-03-08T08:00:00", date(2026, 3, 8), "2026-03-09T07:00:00"),
        ("2026-07-02T06:59:59", date(2026, 7, 1), "2026-07-02T07:00:00"),
        ("2026-11-01T07:00:00", date(2026, 11, 1), "2026-11-02T08:00:00"),
    ],
)
async def test_a_day_is_that_of_the_pacific_over_both_clock_changes(
    database: Database, moment: str, day: date, ends: str
) -> None:
    at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    async with database.autocommit() as session:
        ledger = KeyLedger(session)
        found = await ledger.snapshot(at=at)
        assert (found.day, found.day_ends.astimezone(UTC).isoformat()) == (day, ends + "+00:00")
        values: dict[str, Any] = {"total": 0, "settled": 0, "in_flight": 0, "need": 1}
        for other in (day - timedelta(days=1), day, day + timedelta(days=1)):
            grant = await ledger.settle(
                "p", "general", other, holder="a", limit=1_000, at=at, **values
            )
            assert (grant.units > 0) == (other == day)


async def test_many_holders_at_once_never_share_a_unit(database: Database) -> None:
    await settle(database, "first", need=0)
    grants = await asyncio.gather(*(settle(database, f"h{n}", limit=60) for n in range(5)))
    assert sum(grant.units for grant in grants) <= 60
    assert all(grant.units > 0 for grant in grants)


async def test_a_refusal_corrects_the_count_and_later_settlements_take_their_part(
    database: Database,
) -> None:
    await settle(database, "a", total=400, need=0)
    async with database.autocommit() as session:
        await KeyLedger(session).refused("p", "general", DAY, 1_000)
    grant = await settle(database, "b", total=100)
    assert (grant.usage.spent, grant.usage.external, grant.usage.refused) == (500, 500, True)
    assert grant.units == 0


async def test_a_bucket_that_is_found_good_is_granted_again(database: Database) -> None:
    await settle(database, "a", total=400, need=0)
    async with database.autocommit() as session:
        ledger = KeyLedger(session)
        await ledger.refused("p", "general", DAY, 1_000)
        await ledger.reopen(["p", "q"], "general", DAY)
    grants = [(await settle(database, "b", total=n, settled=n - 1)).units for n in (1, 2, 3)]
    assert grants == [1, 1, 1]  # past the limit the API's word decides


async def test_rests_merge_by_the_later_one_and_a_person_may_lift_them(database: Database) -> None:
    async with database.autocommit() as session:
        ledger = KeyLedger(session)
        for hours in (2, 5, 1):
            await ledger.rest([Rest("project:p", "search", NOON + timedelta(hours=hours), "spent")])
        await ledger.rest([Rest("key:1", "*", NOON + timedelta(hours=1), "disabled")])
        found = await ledger.snapshot(NOON)
        assert {(r.account, r.until) for r in found.rests} == {
            ("project:p", NOON + timedelta(hours=5)),
            ("key:1", NOON + timedelta(hours=1)),
        }
        assert (found.day, found.day_ends) == (DAY, datetime(2026, 7, 2, 7, tzinfo=UTC))
        await ledger.lift(["key:1"])
        assert len((await ledger.snapshot(NOON)).rests) == 1
        await ledger.prune(at=NOON + timedelta(days=3))
        assert (await session.execute(text("SELECT count(*) FROM api_key_rests"))).scalar() == 0


async def test_one_of_many_processes_probes_and_one_tells_people(database: Database) -> None:
    async def probe(at: datetime) -> bool:
        async with database.autocommit() as session:
            return await KeyLedger(session).claim_probe("search", 30, at)

    async def tell(at: datetime) -> bool:
        async with database.autocommit() as session:
            return await KeyLedger(session).claim_notice("hunting", at + timedelta(hours=1), at)

    async with database.autocommit() as session:
        for _ in range(3):  # three processes see the same outage
            await KeyLedger(session).open_breaker("search", 5, 60, NOON)
    assert not await probe(NOON + timedelta(seconds=4))
    later = NOON + timedelta(seconds=5)
    assert sum(await asyncio.gather(*(probe(later) for _ in range(4)))) == 1
    assert await probe(later + timedelta(seconds=30))  # the one that probed died
    async with database.autocommit() as session:
        await KeyLedger(session).open_breaker("search", 5, 60, later)  # the probe failed: longer
        assert (await KeyLedger(session).snapshot(later)).breakers == {
            "search": later + timedelta(seconds=10)
        }
        await KeyLedger(session).close_breaker("search")
        assert (await KeyLedger(session).snapshot(later)).breakers == {}
    assert sum(await asyncio.gather(*(tell(NOON) for _ in range(4)))) == 1
    assert await tell(NOON + timedelta(hours=1))
