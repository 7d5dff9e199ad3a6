"""The search terms of the hunters."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.testing import capture_logs

from atlas.db import Database
from atlas.errors import InvalidInput, LeaseLost, NotFound
from atlas.repositories import search_queue
from atlas.repositories.leases import Ending, Leases, Unfinished
from atlas.repositories.search_queue import (
    HUNT,
    MAX_TERM,
    SearchQueue,
    SearchReport,
    SearchSummary,
)
from atlas.types import SearchStatus
from tests.support.halt import until
from tests.support.sql import execute, scalar, waiting_for_locks


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


async def test_spellings_that_a_search_does_not_tell_apart_are_one_term(
    session: AsyncSession,
) -> None:
    queue = SearchQueue(session)
    spellings = ["Cafe\u0301  Society", "CAFÉ society", "\u3000ｃａｆé\tsociety\n", "café society"]
    assert await queue.add(spellings) == 1
    assert await queue.add(["Café\u00a0Society", "Straße", "STRASSE"]) == 2
    assert await terms(session) == {"café society": 5, "strasse": 2}


async def test_a_term_that_somebody_else_put_in_is_found_by_its_own_spelling(
    session: AsyncSession,
) -> None:
    await session.execute(text("INSERT INTO search_queue (query_term) VALUES ('Cats'), ('CATS')"))
    queue = SearchQueue(session)
    assert await queue.add([" Cats", "CATS", "Dogs"]) == 2
    assert await terms(session) == {"Cats": 1, "CATS": 3, "dogs": 1}
    await session.execute(text("INSERT INTO search_queue (query_term) VALUES ('cats')"))
    assert await queue.add(["Cats"]) == 1  # the normalised one, where there is one
    assert (await terms(session))["cats"] == 2


async def test_a_full_queue_counts_mentions_and_takes_the_most_mentioned_of_the_new_terms(
    session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_queue, "MAX_TERMS", 3)
    queue = SearchQueue(session)
    assert await queue.add(["old", "older"]) == 2
    with capture_logs() as logs:
        assert await queue.add(["aa", "old", "bb", "cc", "bb"]) == 2
        assert await queue.add(["dd", "older"]) == 1
        assert await queue.add(["old"]) == 1
    assert await terms(session) == {"old": 3, "older": 2, "bb": 2}
    told = [(entry["event"], entry["refused"]) for entry in logs]
    assert told == [("search_queue_full", 2), ("search_queue_full", 1)]


async def test_an_exhausted_term_is_searched_from_its_first_page_again_after_a_time(
    session: AsyncSession,
) -> None:
    await session.execute(
        text(
            "INSERT INTO search_queue (query_term, status, last_searched_at, created_at, "
            "next_page_token, mention_count) SELECT term, status, now() - searched * interval '1 day', "
            "now() - created * interval '1 day', 'page 9', 7 FROM (VALUES "
            "('long ago', 'exhausted', 31, 90), ('lately', 'exhausted', 29, 90), "
            "('never', 'exhausted', NULL, 31), ('under way', 'active', 31, 90)) "
            "AS v(term, status, searched, created)"
        )
    )
    queue = SearchQueue(session)
    assert await queue.revive(30) == 2
    assert await queue.revive(30) == 0
    claimed = {term.query_term: term.next_page_token for term in await queue.claim(9)}
    assert claimed == {"long ago": None, "never": None, "under way": "page 9"}


async def test_reviving_passes_over_what_somebody_has_locked(database: Database) -> None:
    await execute(
        database,
        "INSERT INTO search_queue (query_term, status, created_at) "
        "SELECT n, 'exhausted', now() - interval '40 days' FROM unnest('{one,two}'::text[]) n",
    )
    async with database.transaction() as session:
        await SearchQueue(session).add(["one"])
        async with database.transaction() as other, asyncio.timeout(20):
            assert await SearchQueue(other).revive(30) == 1


@pytest.mark.parametrize(
    "bad",
    [
        None,
        7,
        "a\x00b",
        "\ud800",
        "x" * (MAX_TERM + 1),
        "\ufdfa" * 30,
    ],  # 18 letters when normalised
)
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
        spelled = str.upper if order < 0 else str.lower
        async with database.transaction() as session:
            terms = [spelled(f"term {number}") for number in range(300)]
            await SearchQueue(session).add(terms[::order])

    for _ in range(5):
        await asyncio.gather(add(1), add(-1), add(1))
    assert await scalar(database, "SELECT min(mention_count) FROM search_queue") == 15


WORDS: dict[str, Callable[[AsyncSession, uuid.UUID], Awaitable[object]]] = {
    "report": lambda session, token: SearchQueue(session).record(
        token, [SearchReport(str(key), None, 1, SearchStatus.ACTIVE) for key in (1, 2, 3)]
    ),
    "failure": lambda session, token: Leases(session, HUNT).settle(
        token, [Unfinished(str(key), Ending.FAIL, error="x") for key in (1, 2, 3)]
    ),
    "renewal": lambda session, token: Leases(session, HUNT).renew(token, [1, 2, 3]),
    "requeue": lambda session, token: Leases(session, HUNT).requeue([1, 2, 3]),
}


@pytest.mark.parametrize("word", WORDS)
async def test_a_batch_of_terms_that_are_mentioned_meanwhile_does_not_deadlock(
    database: Database, word: str
) -> None:
    token = uuid.uuid4()
    # ids and terms are in opposite order
    await execute(
        database,
        "INSERT INTO search_queue (query_term, leased_until, lease) VALUES "
        "('c', 'infinity', :token), ('b', 'infinity', :token), ('a', 'infinity', :token)",
        token=token,
    )

    async def say() -> None:
        async with database.transaction() as session:
            await WORDS[word](session, token)

    async def add() -> None:
        async with database.transaction() as session:
            await SearchQueue(session).add(["a", "b", "c"])

    async with database.transaction() as session, asyncio.TaskGroup() as tasks:
        # both stop half-way, each holding what comes first in its order
        await session.execute(text("SELECT FROM search_queue WHERE query_term = 'b' FOR UPDATE"))
        tasks.create_task(say())
        tasks.create_task(add())

        async def both_wait() -> bool:
            return await waiting_for_locks(database) >= 2

        await until(both_wait)
        await session.rollback()
    assert await scalar(database, "SELECT min(mention_count) FROM search_queue") == 2
