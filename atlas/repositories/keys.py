"""What processes share about API keys: rests, leases of quota, breakers, notices; see docs/hydra-protocol.md.

Each method is one statement, so that it can run outside of a transaction. ``at`` replaces the database's
clock, for simulations; whoever passes it must pass it always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import text

from atlas.repositories.base import Repository, as_json

__all__ = ["Grant", "KeyLedger", "KeySnapshot", "Rest", "Usage"]

#: Seconds for which a holder may use the units it leased without renewing.
LEASE_SECONDS = 60
#: Most units in a block; it shrinks as the quota does.
BLOCK = 50
#: Seconds that a holder's total is kept after its lease, so that a repeated settlement counts once.
_REMEMBERED = 3_600
_NOW = "coalesce(CAST(:at AS timestamptz), clock_timestamp())"
_DAY = f"({_NOW} AT TIME ZONE 'America/Los_Angeles')::date"

_SNAPSHOT = text(f"""
    WITH moment AS MATERIALIZED (SELECT {_NOW} AS now, {_DAY} AS day)
    SELECT now, day, ((day + 1)::timestamp AT TIME ZONE 'America/Los_Angeles') AS day_ends,
        (SELECT jsonb_agg(jsonb_build_array(account, bucket, rest_until, reason))
         FROM api_key_rests WHERE rest_until > now) AS rests,
        (SELECT jsonb_agg(jsonb_build_array(project, bucket, spent, external, refused))
         FROM api_quota_usage u WHERE u.day = moment.day) AS usage,
        (SELECT jsonb_agg(jsonb_build_array(endpoint, open_until)) FROM api_breakers) AS breakers
    FROM moment
    """)
_REST = text("""
    INSERT INTO api_key_rests AS r (account, bucket, rest_until, reason)
    SELECT account, bucket, until, reason FROM jsonb_to_recordset(CAST(:rests AS jsonb))
        AS n (account text, bucket text, until timestamptz, reason text)
    ORDER BY account, bucket
    ON CONFLICT (account, bucket) DO UPDATE SET rest_until = excluded.rest_until, reason = excluded.reason
    WHERE excluded.rest_until > r.rest_until
    """)
# A sub-select of SET sees the row as it is once its lock is held, so that two grants never count the same
# units. `room` less what others lease is free. Past the limit the API decides: one unit at a time, then as
# many at once as were proved to be there.
_SETTLE = text(f"""
    UPDATE api_quota_usage AS q SET (spent, external, leases) = (
        SELECT c.spent, c.external, l.kept || jsonb_build_object(CAST(:holder AS text), jsonb_build_object(
            't', CAST(:total AS bigint), 'e', c.now + {LEASE_SECONDS},
            'u', CAST(:in_flight AS bigint) + CASE
                WHEN CAST(:need AS bigint) = 0 OR q.refused OR q.day <> c.today THEN 0
                WHEN c.room - l.leased >= :need
                    THEN greatest(:need, least(greatest({BLOCK}, CAST(:wanted AS bigint)),
                        (c.room - l.leased) / (4 * (l.live + 1))))
                WHEN l.leased + :in_flight + :need
                    <= greatest(:need, c.spent + c.external - CAST(:limit AS bigint)) THEN :need
                ELSE 0 END))
        FROM (
            SELECT b.*, q.spent + b.delta AS spent,
                CASE WHEN q.refused THEN greatest(0, q.external - b.delta) ELSE q.external END AS external,
                :limit - q.spent - b.delta - q.external - :in_flight AS room
            FROM (
                SELECT extract(epoch FROM {_NOW}) AS now, {_DAY} AS today,
                    greatest(0, CAST(:total AS bigint) - greatest(CAST(:settled AS bigint),
                        coalesce((q.leases -> CAST(:holder AS text) ->> 't')::bigint, 0))) AS delta
            ) b
        ) c, LATERAL (
            SELECT coalesce(jsonb_object_agg(key, value)
                    FILTER (WHERE (value ->> 'e')::numeric > c.now - {_REMEMBERED}), '{{}}') AS kept,
                count(*) FILTER (WHERE (value ->> 'e')::numeric > c.now AND (value ->> 'u')::bigint > 0)
                    AS live,
                coalesce(sum((value ->> 'u')::bigint)
                    FILTER (WHERE (value ->> 'e')::numeric > c.now), 0)::bigint AS leased
            FROM jsonb_each(q.leases - CAST(:holder AS text))
        ) l
    )
    WHERE project = :project AND bucket = :bucket AND day = :day
    RETURNING spent, external, refused,
        (leases -> CAST(:holder AS text) ->> 'u')::bigint - :in_flight AS granted
    """)
_CREATE = text("""
    INSERT INTO api_quota_usage (project, bucket, day) VALUES (:project, :bucket, :day)
    ON CONFLICT DO NOTHING
    """)
_REFUSED = text("""
    UPDATE api_quota_usage SET refused = true, external = greatest(external, :limit - spent, 0)
    WHERE project = :project AND bucket = :bucket AND day = :day
    """)
_REOPEN = text("""
    UPDATE api_quota_usage SET refused = false
    WHERE project = ANY(:projects) AND bucket = :bucket AND day = :day AND refused
    """)
_OPEN = text(f"""
    INSERT INTO api_breakers AS b (endpoint, open_until)
    VALUES (:endpoint, {_NOW} + make_interval(secs => :seconds))
    ON CONFLICT (endpoint) DO UPDATE SET failures = b.failures + 1, probe_until = NULL,
        open_until = {_NOW} + make_interval(secs => least(:longest, :seconds * 2 ^ least(b.failures, 10)))
    WHERE b.open_until <= {_NOW}
    """)
_PROBE = text(f"""
    UPDATE api_breakers SET probe_until = {_NOW} + make_interval(secs => :seconds)
    WHERE endpoint = :endpoint AND open_until <= {_NOW} AND (probe_until IS NULL OR probe_until <= {_NOW})
    RETURNING endpoint
    """)
_NOTICE = text(f"""
    INSERT INTO api_key_notices AS n (name, quiet_until) VALUES (:name, :until)
    ON CONFLICT (name) DO UPDATE SET quiet_until = excluded.quiet_until WHERE n.quiet_until <= {_NOW}
    RETURNING name
    """)


@dataclass(frozen=True, slots=True)
class Rest:
    """An account is not to be used for ``bucket`` before ``until`` (timezone-aware)."""

    account: str
    bucket: str
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Units of a Pacific day: our own count, what others used, and whether the API refused."""

    spent: int = 0
    external: int = 0
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """The count after a settlement, and how many new units the holder may use."""

    usage: Usage
    units: int


@dataclass(frozen=True, slots=True)
class KeySnapshot:
    """Everything that is shared, as of ``now`` by the database's clock. ``day_ends`` is the next reset."""

    now: datetime
    day: date
    day_ends: datetime
    rests: tuple[Rest, ...]
    usage: dict[tuple[str, str], Usage]
    breakers: dict[str, datetime]


class KeyLedger(Repository):
    """Reads and writes what processes share about keys."""

    async def snapshot(self, at: datetime | None = None) -> KeySnapshot:
        """Rests that have not ended, today's usage, and open breakers."""
        row = (await self.session.execute(_SNAPSHOT, {"at": at})).one()
        return KeySnapshot(
            now=row.now,
            day=row.day,
            day_ends=row.day_ends,
            rests=tuple(Rest(a, b, _moment(u), r) for a, b, u, r in row.rests or ()),
            usage={(p, b): Usage(*counts) for p, b, *counts in row.usage or ()},
            breakers={endpoint: _moment(until) for endpoint, until in row.breakers or ()},
        )

    async def rest(self, rests: Sequence[Rest]) -> None:
        """Record rests; of two for one account and bucket the later end counts."""
        await self.session.execute(_REST, {"rests": as_json(rests)})

    async def lift(self, accounts: Sequence[str], buckets: Sequence[str] = ("*",)) -> None:
        """End the rests of accounts, for a person who knows that the reason is gone."""
        await self.session.execute(
            text(
                "DELETE FROM api_key_rests WHERE account = ANY(:accounts) AND bucket = ANY(:buckets)"
            ),
            {"accounts": list(accounts), "buckets": list(buckets)},
        )

    async def settle(
        self,
        project: str,
        bucket: str,
        day: date,
        *,
        holder: str,
        total: int,
        settled: int,
        in_flight: int,
        need: int,
        limit: int,
        wanted: int = 0,
        at: datetime | None = None,
    ) -> Grant:
        """Count what ``holder`` spent in ``day`` and lease it a block of at least ``need`` units (0: none).

        ``total`` is what it spent that day in all, ``settled`` how much of that was acknowledged: a repeated
        settlement counts once. ``in_flight`` units stay leased. Where more than a block is ``wanted``,
        that much is granted, if a fair share allows it. The lease ends after `LEASE_SECONDS`.
        """
        values = {
            "project": project,
            "bucket": bucket,
            "day": day,
            "holder": holder,
            "total": total,
            "settled": settled,
            "in_flight": in_flight,
            "need": need,
            "wanted": wanted,
            "limit": limit,
            "at": at,
        }
        row = (await self.session.execute(_SETTLE, values)).one_or_none()
        if row is None:
            await self.session.execute(_CREATE, {"project": project, "bucket": bucket, "day": day})
            row = (await self.session.execute(_SETTLE, values)).one()
        return Grant(Usage(row.spent, row.external, row.refused), row.granted)

    async def refused(self, project: str, bucket: str, day: date, limit: int) -> None:
        """The API says that the bucket is spent: what our own count lacks was used by others."""
        values = {"project": project, "bucket": bucket, "day": day}
        await self.session.execute(_CREATE, values)
        await self.session.execute(_REFUSED, {**values, "limit": limit})

    async def reopen(self, projects: Sequence[str], bucket: str, day: date) -> None:
        """The API answers again where it had said that a bucket is spent: more units may be tried."""
        await self.session.execute(_REOPEN, {"projects": projects, "bucket": bucket, "day": day})

    async def open_breaker(
        self, endpoint: str, seconds: float, longest: float, at: datetime | None = None
    ) -> None:
        """Let nobody call ``endpoint`` for a while, longer each time in a row; once for all processes."""
        values = {"endpoint": endpoint, "seconds": seconds, "longest": longest, "at": at}
        await self.session.execute(_OPEN, values)

    async def claim_probe(self, endpoint: str, seconds: float, at: datetime | None = None) -> bool:
        """Whether the caller is the one that may try ``endpoint`` now."""
        values = {"endpoint": endpoint, "seconds": seconds, "at": at}
        return (await self.session.execute(_PROBE, values)).one_or_none() is not None

    async def close_breaker(self, endpoint: str) -> None:
        """The endpoint answers again."""
        await self.session.execute(
            text("DELETE FROM api_breakers WHERE endpoint = :endpoint"), {"endpoint": endpoint}
        )

    async def claim_notice(self, name: str, until: datetime, at: datetime | None = None) -> bool:
        """Whether the caller sends the notice now; no other process will before ``until``."""
        values = {"name": name, "until": until, "at": at}
        return (await self.session.execute(_NOTICE, values)).one_or_none() is not None

    async def prune(self, days: int = 8, at: datetime | None = None) -> None:
        """Forget rests that ended and usage older than ``days``."""
        await self.session.execute(
            text(f"DELETE FROM api_key_rests WHERE rest_until < {_NOW} - interval '1 day'"),
            {"at": at},
        )
        await self.session.execute(
            text(f"DELETE FROM api_quota_usage WHERE day < {_DAY} - CAST(:days AS int)"),
            {"at": at, "days": days},
        )


def _moment(value: Any) -> datetime:
    return datetime.fromisoformat(value)
