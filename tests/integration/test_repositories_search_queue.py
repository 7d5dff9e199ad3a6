"""The search terms of the hunters."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db import Database
from atlas.errors import InvalidInput, LeaseLost, NotFound
from atlas.repositories.search_queue import MAX_TERM, SearchQueue, SearchSummary
from atlas.types import SearchStatus
from tests.support.sql import scalar


async def terms(session: AsyncSession) -> dict[str, int]:
    rows = await session.execute(text("SELECT query_term, mention_count FROM search_queue"))
    return {row.query_term: row.mention_count for row in rows}


async def test_repeats_are_counted_as_mentions_within_a_call_and_between_calls(
    session: AsyncSession,
) -> None:
    queue = SearchQueue(session)
    assert await queue.add(["one", "two", " one\n", "", "  "]) == 2
    assert await queue.add(iter(["two", "three"])) == 2
    assert await terms(session) == {"one": 2, "two": 2, "three": 1}
    assert await queue.add([]) == 0


@pytest.mark.parametrize("bad", [None, 7, "a\x00b", "x" * (MAX_TERM + 1)])
async def test_a_term_that_is_none_is_named_and_no_term_is_taken(
    session: AsyncSession, bad: Any
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await SearchQueue(session).add(["good", bad])
    assert caught.value.row == 1
    assert await terms(session) == {}


async def test_the_longest_term_fits_its_index_in_any_script(session: AsyncSession) -> None:
    await SearchQueue(session).add(["".join(chr(0x20000 + 7 * n) for n in range(MAX_TERM))])
    assert len(await terms(session)) == 1


async def test_hunters_get_active_terms_by_priority_then_mentions(session: AsyncSession) -> None:
    await session.execute(
        text(
            "INSERT INTO search_queue (query_term, priority, mention_count, status) VALUES "
            "('seldom', 0, 1, 'active'), ('often', 0, 9, 'active'), ('urgent', 5, 1, 'active'), "
            "('spent', 9, 9, 'exhausted'), ('seldom too', 0, 1, 'active')"
        )
    )
    claimed = await SearchQueue(session).claim(9)
    assert [term.query_term for term in claimed] == ["urgent", "often", "seldom", "seldom too"]


async def test_a_report_says_where_to_go_on_and_adds_the_results(session: AsyncSession) -> None:
    queue = SearchQueue(session)
    await queue.add(["one"])
    for results in (20, 30):
        (term,) = await queue.claim(1)
        await queue.report(term.id, next_page_token=f"after {results}", results=results)
    (term,) = await queue.claim(1)
    assert term.next_page_token == "after 30"
    assert term.last_searched_at is not None
    assert await session.scalar(text("SELECT result_count_total FROM search_queue")) == 50
    await queue.report(term.id, next_page_token=None, results=0, status=SearchStatus.EXHAUSTED)
    assert await queue.claim(1) == []
    assert await queue.summary() == [SearchSummary("exhausted", 1, 0)]


async def test_a_report_under_a_lost_lease_changes_nothing_and_says_so(
    session: AsyncSession,
) -> None:
    queue = SearchQueue(session)
    await queue.add(["one"])
    (term,) = await queue.claim(1)
    with pytest.raises(LeaseLost):
        await queue.report(term.id, next_page_token="x", results=9, lease=uuid.uuid4())
    assert await session.scalar(text("SELECT result_count_total FROM search_queue")) == 0
    await queue.report(term.id, next_page_token="x", results=9, lease=term.lease)


async def test_a_report_on_an_unknown_term_says_so(session: AsyncSession) -> None:
    with pytest.raises(NotFound):
        await SearchQueue(session).report(404, next_page_token=None, results=0)


async def test_hunters_adding_the_same_terms_in_opposite_order_do_not_deadlock(
    database: Database,
) -> None:
    async def add(order: int) -> None:
        async with database.transaction() as session:
            await SearchQueue(session).add([f"term {number}" for number in range(300)][::order])

    for _ in range(5):
        await asyncio.gather(add(1), add(-1), add(1))
    assert await scalar(database, "SELECT min(mention_count) FROM search_queue") == 15
