"""The claim mechanism of every queue: one statement that leases the next rows of a table.

A kind of work has three columns, ``<prefix>leased_until``, ``<prefix>lease`` and
``<prefix>attempts``. A claim moves the row's "claimable from" time to the lease's end, so that it
leaves the head of the queue's index, and counts an attempt. A report clears all three. Nothing ends
a lease that ran out: the same statement finds the row claimable again, behind what has waited
longer, and leases it for twice as long as before, so that work which nobody can finish fades from
the head of the queue.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import TextClause, text

from atlas.errors import InvalidInput

#: A first lease, and the longest one however often the work was not reported.
LEASE = "interval '10 minutes'"
LONGEST_LEASE = "interval '1 day'"


@dataclass(frozen=True, slots=True)
class Queue:
    """Claimable rows of a table, in SQL; ``q`` is the row, ``(SELECT now FROM clock)`` the time.

    ``ready`` must be a condition that an index of the table serves, best in that index's ``order``;
    ``returning`` is what the worker gets of the claimed row, before the lease's token.
    """

    table: str
    key: str
    ready: str
    order: str
    returning: str
    prefix: str = ""


def claim_statement(queue: Queue) -> TextClause:
    """SQL that claims up to ``:limit`` rows; yields ``returning`` and the token, in queue order.

    `SKIP LOCKED` lets any number of workers claim at once without waiting for each other. The
    clock is read once, in a subquery, because an index cannot serve a comparison with a volatile
    function.
    """
    until, lease, attempts = (queue.prefix + name for name in ("leased_until", "lease", "attempts"))
    return text(f"""
        WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
        picked AS MATERIALIZED (
            SELECT q.{queue.key} AS key FROM {queue.table} q
            WHERE {queue.ready} ORDER BY {queue.order}
            LIMIT :limit FOR UPDATE SKIP LOCKED
        ),
        numbered AS MATERIALIZED (SELECT key, row_number() OVER () AS place FROM picked),
        claimed AS (
            UPDATE {queue.table} q
            SET {until} = clock.now + least({LONGEST_LEASE}, {LEASE} * 2 ^ least(q.{attempts}, 16)),
                {lease} = gen_random_uuid(),
                {attempts} = least(q.{attempts}, 32766) + 1
            FROM numbered, clock WHERE q.{queue.key} = numbered.key
            RETURNING {queue.returning}, q.{lease} AS lease, numbered.place
        )
        SELECT * FROM claimed ORDER BY place
        """)


def release(prefix: str = "") -> str:
    """The assignments by which a report ends a lease."""
    return f"{prefix}leased_until = NULL, {prefix}lease = NULL, {prefix}attempts = 0"


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
