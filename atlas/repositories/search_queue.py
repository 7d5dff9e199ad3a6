"""The search terms of the hunters."""

from __future__ import annotations

import unicodedata
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.errors import InvalidInput, LeaseLost, NotFound
from atlas.logging import get_logger
from atlas.repositories.base import Repository, as_json, chunks
from atlas.repositories.leases import Leases, Queue, held, release
from atlas.types import SearchStatus

log = get_logger(__name__)

#: Longest search term in characters, as all tags of a YouTube video together have; the unique index
#: takes no more than 2,704 bytes.
MAX_TERM = 500
#: Terms that the queue holds. Each may bring new ones, and so they grow without end; a project searches a
#: hundred times a day, so that more are never come to, and only fill the database.
MAX_TERMS = 100_000

# Terms on lease stay in the index that defines the order and are skipped: the queue is small.
HUNT = Queue(
    kind="hunt",
    table="search_queue",
    key="id",
    key_type="bigint",
    ready="""q.status = 'active'
        AND (q.leased_until IS NULL OR q.leased_until <= (SELECT now FROM clock))""",
    order="q.priority DESC, q.mention_count DESC, q.id",
    returning="q.id, q.query_term, q.next_page_token, q.last_searched_at, q.priority",
    # as `SearchQueue.add` locks them, which does not know the ids
    lock_order='q.query_term COLLATE "C"',
)

_KNOWN = text("SELECT query_term FROM search_queue WHERE query_term = ANY (CAST(:terms AS text[]))")

_ADD = text("""
    INSERT INTO search_queue AS q (query_term, mention_count)
    SELECT term, mentions
    FROM unnest(CAST(:terms AS text[]), CAST(:mentions AS integer[])) AS n(term, mentions)
    ON CONFLICT (query_term) DO UPDATE SET mention_count = q.mention_count + excluded.mention_count
    """)

_REPORT = text(f"""
    UPDATE search_queue
    SET next_page_token = :next_page_token, status = :status, last_searched_at = clock_timestamp(),
        result_count_total = result_count_total + :results, {release()}
    WHERE id = :id AND (CAST(:lease AS uuid) IS NULL OR lease = :lease)
    RETURNING query_term
    """)

_RECORD = text(f"""
    WITH report AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(
            key bigint, next_page_token text, results bigint, status text)
    ),
    {held(HUNT, "ARRAY(SELECT key FROM report)")}
    UPDATE search_queue q
    SET next_page_token = r.next_page_token, status = r.status, last_searched_at = clock_timestamp(),
        result_count_total = q.result_count_total + r.results, {release()}
    FROM report r, held WHERE q.id = held.key AND r.key = held.key
    RETURNING CAST(q.id AS text)
    """)

# passes over what somebody else has locked, and so is in nobody's way
_REVIVE = text("""
    WITH spent AS MATERIALIZED (
        SELECT id FROM search_queue
        WHERE status = 'exhausted'
          AND coalesce(last_searched_at, created_at) < now() - make_interval(days => :days)
        FOR UPDATE SKIP LOCKED
    )
    UPDATE search_queue q SET status = 'active', next_page_token = NULL
    FROM spent WHERE q.id = spent.id RETURNING 1
    """)

_SUMMARY = text("""
    SELECT status, count(*), count(*) FILTER (WHERE leased_until > now())
    FROM search_queue GROUP BY status ORDER BY status
    """)


@dataclass(frozen=True, slots=True)
class LeasedTerm:
    """A term to search for, from ``next_page_token`` on. ``lease`` is the token."""

    id: int
    query_term: str
    next_page_token: str | None
    last_searched_at: datetime | None
    priority: int
    lease: uuid.UUID
    attempts: int
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class SearchReport:
    """A page of results was read: where to go on, how many there were, and whether there are more."""

    key: str
    next_page_token: str | None
    results: int
    status: SearchStatus


@dataclass(frozen=True, slots=True)
class SearchSummary:
    """How many terms have a status, and how many of them are leased."""

    status: str
    terms: int
    leased: int


class SearchQueueReader(Repository):
    """Reads the search terms."""

    async def summary(self) -> list[SearchSummary]:
        """One row a status that terms have."""
        return [SearchSummary(*row) for row in await self.session.execute(_SUMMARY)]


class SearchQueue(SearchQueueReader):
    """Changes the search terms. ``added`` counts the new ones."""

    def __init__(self, session: AsyncSession) -> None:
        super().__init__(session)
        self.added = 0

    async def add(self, terms: Iterable[str]) -> int:
        """Add terms, or count their repeats as mentions; returns how many distinct terms were taken.

        Terms are stored as `normalised`; one that is there in the spelling given (somebody else put it
        in) is that one. What is blank is no term. New terms beyond `MAX_TERMS` in the queue are not
        taken, the least mentioned first, with a warning in the log; calls at the same moment may
        pass that number together. Raises `InvalidInput` for what is not text, holds a NUL or a lone
        surrogate, or is longer than `MAX_TERM`; then none is taken.
        """
        mentions: Counter[str] = Counter()
        spellings: dict[str, set[str]] = {}
        for row, given in enumerate(terms):
            if term := _checked(given, row):
                mentions[term] += 1
                spellings.setdefault(term, set()).add(given.strip())
        there: set[str] = set()
        for part in chunks(sorted(mentions.keys() | set().union(*spellings.values()))):
            there.update(await self.session.scalars(_KNOWN, {"terms": list(part)}))
        for term in mentions.keys() - there:
            if known := spellings[term] & there:
                mentions[min(known)] = mentions.pop(term)
        await self._leave_out(mentions, mentions.keys() - there)
        self.added += len(mentions.keys() - there)
        for part in chunks(sorted(mentions)):  # one lock order for everybody: no deadlocks
            counts = [mentions[term] for term in part]
            await self.session.execute(_ADD, {"terms": list(part), "mentions": counts})
        return len(mentions)

    async def _leave_out(self, mentions: Counter[str], new: set[str]) -> None:
        """Take those of the ``new`` terms for which the queue has no room out of ``mentions``."""
        if not new:
            return
        held = await self.session.scalar(text("SELECT count(*) FROM search_queue"))
        by_rank = sorted(new, key=lambda term: (-mentions[term], term))
        refused = by_rank[max(0, MAX_TERMS - (held or 0)) :]
        for term in refused:
            del mentions[term]
        if refused:
            log.warning("search_queue_full", terms=held, refused=len(refused))

    async def revive(self, days: int) -> int:
        """Make terms that were exhausted ``days`` ago active again, from their first page; how many."""
        return len((await self.session.execute(_REVIVE, {"days": days})).all())

    async def claim(self, limit: int) -> list[LeasedTerm]:
        """Lease up to ``limit`` active terms: highest priority first, then most often mentioned."""
        return [LeasedTerm(*row) for row in await Leases(self.session, HUNT).claim(limit)]

    async def record(self, token: uuid.UUID, reports: Sequence[SearchReport]) -> set[str]:
        """Record searches and end their leases; returns the ids of those that were still held."""
        values = {"token": token, "reports": as_json(reports)}
        return set(await self.session.scalars(_RECORD, values))

    async def report(
        self,
        term_id: int,
        *,
        next_page_token: str | None,
        results: int,
        status: SearchStatus = SearchStatus.ACTIVE,
        lease: uuid.UUID | None = None,
    ) -> str:
        """Record a search, add to its count of results, and end the lease; returns the term.

        Raises `NotFound` for an unknown term, and `LeaseLost` when ``lease`` is given and is no
        longer the current one; then nothing is changed.
        """
        values = {
            "id": term_id,
            "next_page_token": next_page_token,
            "results": results,
            "status": status,
            "lease": lease,
        }
        term: str | None = (await self.session.execute(_REPORT, values)).scalar()
        if term is not None:
            return term
        known = await self.session.scalar(
            text("SELECT id FROM search_queue WHERE id = :id"), {"id": term_id}
        )
        if known is None:
            raise NotFound(f"there is no search term {term_id}")
        raise LeaseLost(f"the lease of search term {term_id} ran out or was taken over")


def normalised(term: str) -> str:
    """One spelling of terms that a search does not distinguish: Unicode NFKC, case folded, single spaces."""
    # folding may leave what NFKC composes
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", term).casefold())
    return " ".join(folded.split())


def _checked(given: object, row: int) -> str:
    """The normalised term, empty if it is blank. Raises `InvalidInput`."""
    # only surrogates cannot be encoded
    if isinstance(given, str) and given == given.encode(errors="ignore").decode():
        term = normalised(given)
        if len(term) <= MAX_TERM and "\x00" not in term:
            return term
    raise InvalidInput(
        f"term {row} cannot be searched for: {given!r:.80}",
        row=row,
        field="query_term",
        value=given,
        hint=f"give text of up to {MAX_TERM} characters",
    )
