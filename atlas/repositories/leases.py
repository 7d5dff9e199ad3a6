"""The lease mechanism of every queue; docs/leases.md documents its states and what each crash leaves.

A kind of work has four columns, ``<prefix>leased_until``, ``<prefix>lease``, ``<prefix>attempts`` and
``<prefix>error``. A claim moves the row's "claimable from" time to the lease's end, so that it leaves the
head of the queue's index, and counts an attempt. Nothing ends a lease that ran out: the same statement
finds the row claimable again, behind what has waited longer, and leases it for twice as long as
before, or, its attempts spent, puts it into quarantine.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.errors import InvalidInput
from atlas.logging import get_logger
from atlas.repositories.base import Repository, as_json, chunks
from atlas.repositories.events.log import EventLog

log = get_logger(__name__)

#: A first lease, and the longest one however often the work was not reported.
LEASE = "interval '10 minutes'"
LONGEST_LEASE = "interval '1 day'"
#: Claims without a report after which a row is put aside: the last of them is about five days after
#: the first, and longer than any outage that mends itself.
MAX_ATTEMPTS = 10
#: Characters of an error that are kept in the row.
ERROR_LENGTH = 500
#: Ids in a line of the log.
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Queue:
    """Claimable rows of a table, in SQL; ``q`` is the row, ``(SELECT now FROM clock)`` the time.

    ``ready`` must be a condition that an index of the table serves, best in that index's ``order``;
    ``returning`` is what the worker gets of the claimed row, before the facts of the lease.
    """

    kind: str
    table: str
    key: str
    ready: str
    order: str
    returning: str
    prefix: str = ""
    key_type: str = "text"
    #: From when on the row is claimable, where the index is in the order of that time alone.
    claimable: str | None = None
    #: The order in which rows are locked, where it is not that of the keys.
    lock_order: str | None = None

    @property
    def locked_in(self) -> str:
        """The one order in which every statement that waits for several rows locks them."""
        return self.lock_order or f"q.{self.key}"


class Head:
    """Where the head of a queue was found, for a process that claims much of it.

    Versions that claims leave behind stay in the index, before the head, until a vacuum removes them: of
    a large table after a fifth of its rows, while an older transaction is open never. Every claim from
    the beginning walks over all of them. So once a process has claimed ten thousand rows without running
    dry, its claims start where the last one found something, and one looks from the beginning as often as
    takes a fiftieth of the time, and before there is said to be nothing. What was released or moved to the
    front waits for that long at most.
    """

    _BUSY_ROWS = 10_000
    _PAUSE = 50.0

    def __init__(self) -> None:
        self._rows = 0
        self._since: datetime | None = None
        self._seconds = 0.0
        self._looks_at = 0.0

    def start(self) -> datetime | None:
        """From which time on the next claim is to look, or None: from the beginning."""
        if self._rows < self._BUSY_ROWS:
            return None
        if time.monotonic() < self._looks_at:
            return self._since
        self._rest()  # the others go on from where they are
        return None

    def found(self, since: datetime | None, at: datetime | None, rows: int, seconds: float) -> None:
        """A claim that looked from ``since`` on found ``rows``, the first one ``at`` this time, or none."""
        if since is None:
            self._seconds = seconds
            self._rest()
        # what began elsewhere, before another claim found an earlier row, must not lead past that
        if since is None or since == self._since:
            self._since = at
        self._rows = self._rows + rows if rows else 0

    def _rest(self) -> None:
        self._looks_at = time.monotonic() + self._PAUSE * self._seconds


class Ending(StrEnum):
    """How a lease ends without its work being done."""

    RELEASE = "release"
    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What becomes of a row. ``seconds`` until it is claimable again count for RETRY, ``error`` for FAIL."""

    key: str
    ending: Ending
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that nobody is given any more."""

    kind: str
    key: str
    attempts: int
    error: str | None


@dataclass(frozen=True, slots=True)
class LeaseCounts:
    """Rows of a kind that are leased now, wait after a failure, and are in quarantine."""

    kind: str
    leased: int
    waiting: int
    quarantined: int


@functools.cache
def claim_statement(queue: Queue) -> TextClause:
    """SQL that claims up to ``:limit`` rows under ``:token``, in queue order, from ``:since`` on.

    Claims none from ``:before`` on. Yields ``returning``, the token, the attempts, the database's time, from
    when on the row was claimable, the place and the key. Rows whose attempts are spent come with no token:
    they are in quarantine now. `SKIP LOCKED` lets any number of workers claim at once without waiting for
    each other. The clock is read once, in a subquery, because an index cannot serve a comparison with a
    volatile function; ``:since`` comes from there too, because for a constant the planner would look up the
    index's least entry, over all dead ones, at each claim.
    """
    until, lease, attempts, error = _columns(queue)
    spent = f"q.{attempts} >= {MAX_ATTEMPTS}"
    ready, claimable = queue.ready, queue.claimable or "NULL::timestamptz"
    if queue.claimable is not None:
        ready += f" AND {claimable} >= (SELECT since FROM clock)"
    return text(f"""
        WITH clock AS MATERIALIZED (
            SELECT now, coalesce(CAST(:since AS timestamptz), '-infinity') AS since
            FROM (SELECT clock_timestamp() AS now) AS read
            WHERE now < coalesce(CAST(:before AS timestamptz), 'infinity')
        ),
        picked AS MATERIALIZED (
            SELECT q.{queue.key} AS key, {claimable} AS claimable FROM {queue.table} q
            WHERE {ready} ORDER BY {queue.order}
            LIMIT :limit FOR UPDATE SKIP LOCKED
        ),
        numbered AS MATERIALIZED (
            SELECT key, claimable, row_number() OVER () AS place FROM picked
        ),
        claimed AS (
            UPDATE {queue.table} q
            SET {until} = CASE WHEN {spent} THEN 'infinity' ELSE clock.now + {_back_off(queue)} END,
                {lease} = CASE WHEN NOT {spent} THEN CAST(:token AS uuid) END,
                {attempts} = CASE WHEN {spent} THEN q.{attempts} ELSE q.{attempts} + 1 END,
                {error} = CASE WHEN {spent}
                    THEN coalesce(q.{error}, 'claimed ' || q.{attempts} || ' times, never reported')
                    ELSE q.{error} END
            FROM numbered, clock WHERE q.{queue.key} = numbered.key
            RETURNING {queue.returning}, q.{lease} AS lease, q.{attempts} AS attempts,
                clock.now AS claimed_at, numbered.claimable, numbered.place,
                q.{queue.key} AS key
        )
        SELECT * FROM claimed ORDER BY place
        """)


@functools.cache
def _renew_statement(queue: Queue) -> TextClause:
    until, *_ = _columns(queue)
    return text(f"""
        WITH {held(queue, f"CAST(:keys AS {queue.key_type}[])")}
        UPDATE {queue.table} q
        SET {until} = greatest(q.{until}, clock_timestamp() + {LEASE})
        FROM held WHERE q.{queue.key} = held.key
        RETURNING CAST(q.{queue.key} AS text)
        """)


@functools.cache
def _lock_statement(queue: Queue) -> TextClause:
    return text(
        f"WITH {held(queue, f'CAST(:keys AS {queue.key_type}[])')} SELECT count(*) FROM held"
    )


@functools.cache
def _settle_statement(queue: Queue) -> TextClause:
    until, lease, attempts, error = _columns(queue)
    return text(f"""
        WITH ending AS MATERIALIZED (
            SELECT * FROM jsonb_to_recordset(CAST(:endings AS jsonb)) AS e(
                key {queue.key_type}, ending text, seconds double precision, error text)
        ),
        {held(queue, "ARRAY(SELECT key FROM ending)")}
        UPDATE {queue.table} q
        SET {lease} = NULL,
            {until} = CASE e.ending
                WHEN 'retry' THEN clock_timestamp() + make_interval(secs => e.seconds)
                WHEN 'fail' THEN CASE WHEN q.{attempts} >= {MAX_ATTEMPTS} THEN 'infinity'
                    ELSE clock_timestamp() + {_back_off(queue)} END
                END,
            {attempts} = q.{attempts} - CASE WHEN e.ending = 'fail' OR q.{attempts} = 0 THEN 0 ELSE 1 END,
            {error} = CASE WHEN e.ending = 'fail' THEN e.error ELSE q.{error} END
        FROM ending e, held WHERE q.{queue.key} = held.key AND e.key = held.key
        RETURNING CAST(q.{queue.key} AS text), q.{until} = 'infinity'
        """)


class Leases(Repository):
    """Leases of one kind of work."""

    def __init__(self, session: AsyncSession, queue: Queue) -> None:
        super().__init__(session)
        self.queue = queue

    async def claim(
        self,
        limit: int,
        token: uuid.UUID | None = None,
        head: Head | None = None,
        before: datetime | None = None,
    ) -> list[tuple[Any, ...]]:
        """Lease up to ``limit`` rows, earliest first: ``returning``, lease, attempts, claimed_at.

        Those that are put into quarantine instead are logged and do not come. ``head`` is kept by the
        caller, for a queue that knows from when on its rows are claimable. From ``before`` on, by the
        database's clock, nothing is claimed.
        """
        values: dict[str, Any] = {"limit": check_limit(limit), "before": before}
        values["token"] = token or uuid.uuid4()
        if self.queue.claimable is None:
            head = None
        while True:
            since = None if head is None else head.start()
            picked = await self._pick(values, head, since)
            claimed: list[tuple[Any, ...]] = [
                tuple(row[:-3]) for row in picked if row.lease is not None
            ]
            # where all that was picked is poison, or the beginning was not looked at, there may be more
            if claimed or (since is None and not picked):
                return claimed

    async def _pick(
        self, values: dict[str, Any], head: Head | None, since: datetime | None
    ) -> Sequence[Row[Any]]:
        begun = time.monotonic()
        rows = (
            await self.session.execute(claim_statement(self.queue), values | {"since": since})
        ).all()
        if head is not None:
            at = rows[0].claimable if rows else None
            head.found(since, at, len(rows), time.monotonic() - begun)
        await self._tell_quarantined([row.key for row in rows if row.lease is None])
        return rows

    async def lock(self, token: uuid.UUID, keys: Iterable[str | int]) -> None:
        """Lock rows under the lease ``token`` that several statements of the transaction will change."""
        await self.session.execute(
            _lock_statement(self.queue), {"token": token, "keys": list(keys)}
        )

    async def renew(self, token: uuid.UUID, keys: Iterable[str | int]) -> set[str]:
        """Prolong leases to ten minutes from now; returns the keys of those still held."""
        values = {"token": token, "keys": list(keys)}
        return set(await self.session.scalars(_renew_statement(self.queue), values))

    async def settle(self, token: uuid.UUID, endings: Sequence[Unfinished]) -> set[str]:
        """End leases whose work is not done; returns the keys of those that were still held."""
        settled: set[str] = set()
        for part in chunks(sorted(endings, key=lambda ending: ending.key)):
            values = {"token": token, "endings": as_json(part)}
            rows = (await self.session.execute(_settle_statement(self.queue), values)).all()
            settled.update(key for key, _ in rows)
            await self._tell_quarantined([key for key, quarantined in rows if quarantined])
        return settled

    async def requeue(self, keys: Iterable[str | int] | None = None) -> int:
        """Bring rows out of quarantine, claimable at once; None is all. Returns how many there were."""
        queue = self.queue
        until = queue.prefix + "leased_until"
        among = f"AND q.{queue.key} = ANY (CAST(:keys AS {queue.key_type}[]))"
        statement = f"""
            WITH locked AS MATERIALIZED (
                SELECT q.{queue.key} AS key FROM {queue.table} q
                WHERE {until} = 'infinity' {'' if keys is None else among}
                ORDER BY {queue.locked_in} FOR UPDATE
            )
            UPDATE {queue.table} q SET {release(queue.prefix)}
            FROM locked WHERE q.{queue.key} = locked.key RETURNING 1
            """
        values = {} if keys is None else {"keys": list(keys)}
        return len((await self.session.execute(text(statement), values)).all())

    async def quarantined(self, limit: int) -> list[Quarantined]:
        """Rows in quarantine, by key."""
        queue = self.queue
        rows = await self.session.execute(
            text(f"""
                SELECT CAST({queue.key} AS text), {queue.prefix}attempts, {queue.prefix}error
                FROM {queue.table} WHERE {queue.prefix}leased_until = 'infinity'
                ORDER BY {queue.key} LIMIT :limit
                """),
            {"limit": check_limit(limit)},
        )
        return [Quarantined(queue.kind, *row) for row in rows]

    async def counts(self) -> LeaseCounts:
        """How many rows are leased, wait, and are in quarantine. Reads the whole table."""
        until, lease, *_ = _columns(self.queue)
        row = (await self.session.execute(text(f"""
                    SELECT count(*) FILTER (WHERE {lease} IS NOT NULL),
                           count(*) FILTER (WHERE {lease} IS NULL AND {until} < 'infinity'),
                           count(*) FILTER (WHERE {until} = 'infinity')
                    FROM {self.queue.table}
                    WHERE {until} > now()
                    """))).one()
        return LeaseCounts(self.queue.kind, *row)

    async def _tell_quarantined(self, keys: Sequence[object]) -> None:
        if keys:
            shown = [str(key) for key in keys[:_SHOWN]]
            facts = {"rows": len(keys), "keys": shown}
            await EventLog(self.session).note("work.quarantined", self.queue.kind, facts)
            log.warning(
                "work_quarantined",
                kind=self.queue.kind,
                rows=len(keys),
                keys=shown,
                hint=f"see `atlas work ls`, and bring it back by `atlas work requeue {self.queue.kind}`",
            )


def held(queue: Queue, keys: str) -> str:
    """A common table expression ``held(key)``: of ``keys`` (SQL), those under the lease ``:token``.

    They are locked, in `Queue.locked_in`, as in every statement that locks several rows.
    """
    return f"""held AS MATERIALIZED (
            SELECT q.{queue.key} AS key FROM {queue.table} q
            WHERE q.{queue.key} = ANY ({keys}) AND q.{queue.prefix}lease = :token
            ORDER BY {queue.locked_in} FOR UPDATE
        )"""


def release(prefix: str = "") -> str:
    """The assignments by which a report ends a lease."""
    return f"{prefix}leased_until = NULL, {prefix}lease = NULL, {prefix}attempts = 0, {prefix}error = NULL"


def check_limit(limit: int) -> int:
    """Return ``limit`` if it is a number of rows, else raise `InvalidInput`."""
    if isinstance(limit, int) and not isinstance(limit, bool) and 0 <= limit < 2**31:
        return limit
    raise InvalidInput(
        f"batch size is not a number of rows: {limit!r}",
        field="batch_size",
        value=limit,
        hint="give a whole number, 0 or more",
    )


def _back_off(queue: Queue) -> str:
    attempts = f"q.{queue.prefix}attempts"
    return f"least({LONGEST_LEASE}, {LEASE} * 2 ^ least({attempts}, 16))"


def _columns(queue: Queue) -> list[str]:
    return [queue.prefix + name for name in ("leased_until", "lease", "attempts", "error")]
