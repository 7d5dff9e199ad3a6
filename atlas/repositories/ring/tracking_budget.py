"""The samples of a UTC day, granted to workers in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from atlas.repositories.base import Repository

# the row of the day is made by whoever comes first; the lock makes "what was left" exact
_GRANT = text("""
    WITH clock AS MATERIALIZED (
        SELECT day, extract(epoch FROM day + interval '1 day' - now) AS seconds_left
        FROM (SELECT timezone('UTC', clock_timestamp()) AS now) AS utc
        CROSS JOIN LATERAL (SELECT date_trunc('day', now) AS day) AS days
    ),
    made AS (
        INSERT INTO tracking_budget (day) SELECT CAST(day AS date) FROM clock
        ON CONFLICT (day) DO NOTHING
    )
    SELECT CAST(day AS date), seconds_left, timezone('UTC', day + interval '1 day') FROM clock
    """)
_TAKE = text("""
    WITH before AS MATERIALIZED (
        SELECT granted FROM tracking_budget WHERE day = :day FOR UPDATE
    )
    UPDATE tracking_budget b
    SET granted = greatest(before.granted, least(:budget, before.granted + :wanted))
    FROM before WHERE b.day = :day
    RETURNING b.granted - before.granted, b.granted
    """)
_FORGET_OLD = text("DELETE FROM tracking_budget WHERE day < CAST(:day AS date) - 7")
_GRANTED = text("""
    SELECT coalesce(max(granted), 0) FROM tracking_budget
    WHERE day = CAST(timezone('UTC', now()) AS date)
    """)


@dataclass(frozen=True, slots=True)
class Grant:
    """Samples that a worker may claim before the UTC day ends, by the database's clock.

    ``last``: none are left after these.
    """

    samples: int
    ends: datetime
    seconds_left: float
    last: bool = False


class TrackingBudget(Repository):
    """Grants samples, inside the caller's transaction, which should end at once."""

    async def grant(self, wanted: int, budget: int) -> Grant:
        """Up to ``wanted`` of what is left of today's ``budget``."""
        day, seconds_left, ends = (await self.session.execute(_GRANT)).one()
        await self.session.execute(_FORGET_OLD, {"day": day})
        values = {"day": day, "wanted": wanted, "budget": budget}
        samples, granted = (await self.session.execute(_TAKE, values)).one()
        return Grant(samples, ends, float(seconds_left), last=samples > 0 and granted >= budget)

    async def granted(self) -> int:
        """Samples that were granted today."""
        return int((await self.session.execute(_GRANTED)).scalar_one())
