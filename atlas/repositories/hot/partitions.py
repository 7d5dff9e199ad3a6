"""The partitions of ``video_stats_log``: which there are, and making those that are missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.errors import ConfigurationError
from atlas.types import utc

PARENT = "video_stats_log"
PREFIX = f"{PARENT}_"

#: How long DDL may wait for its lock before it gives way to the writers behind it.
LOCK_TIMEOUT = "500ms"

#: Each attached partition with its bounds, from the catalogue: NULL where they are no two moments. No
#: backslashes: what they mean in a literal is a setting.
BOUNDS = """
    SELECT relname::text AS name, oid, bound,
           CASE WHEN is_range THEN split_part(bound, '''', 2)::timestamptz END AS lower,
           CASE WHEN is_range THEN split_part(bound, '''', 4)::timestamptz END AS upper
    FROM (
        SELECT c.oid, c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound,
               pg_get_expr(c.relpartbound, c.oid) LIKE 'FOR VALUES FROM (''%'') TO (''%'')' AS is_range
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'video_stats_log'::regclass AND NOT i.inhdetachpending
    ) AS attached
"""

_ATTACHED = text(
    "SELECT name, bound, lower, upper, coalesce(pg_total_relation_size(oid), 0) AS byte_size "
    f"FROM ({BOUNDS}) AS partition ORDER BY lower"
)


@dataclass(frozen=True, slots=True)
class Partition:
    """An attached partition: its bounds come from the catalogue, never from its name."""

    name: str
    lower: datetime
    upper: datetime
    byte_size: int


def slot(moment: datetime, hours: int) -> tuple[datetime, datetime]:
    """The UTC-aligned slot of ``hours`` hours that holds ``moment``: [lower, upper)."""
    moment = utc(moment).astimezone(UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    lower = midnight + timedelta(hours=moment.hour // hours * hours)
    return lower, lower + timedelta(hours=hours)


def covering(
    moment: datetime, hours: int, attached: Iterable[Partition]
) -> tuple[datetime, datetime, bool]:
    """The range of the partition that holds ``moment``, and whether it is attached already.

    Where it is not, the range is the slot, cut where partitions of another width already lie in it.
    """
    lower, upper = slot(moment, hours)
    for partition in attached:
        if partition.lower <= moment < partition.upper:
            return partition.lower, partition.upper, True
        if partition.upper <= moment:
            lower = max(lower, partition.upper)
        else:
            upper = min(upper, partition.lower)
    return lower, upper, False


class Partitions:
    """Reads and makes partitions inside the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def attached(self) -> list[Partition]:
        """Every attached partition, oldest first.

        Raises `ConfigurationError` for one that lacks a bound, such as a DEFAULT partition: what lies in
        it would never be archived.
        """
        partitions = []
        for row in await self.session.execute(_ATTACHED):
            if row.lower is None or row.upper is None:
                raise ConfigurationError(
                    f"the bounds of partition {row.name} are no two moments: {row.bound}",
                    hint=f"detach it from {PARENT} and insert its rows into {PARENT} again",
                )
            partitions.append(Partition(row.name, row.lower, row.upper, row.byte_size))
        return partitions

    async def ensure(self, timestamps: Iterable[datetime], hours: int) -> int:
        """Make the partitions that ``timestamps`` need; returns how many were made.

        The caller's transaction should do nothing else: it takes SHARE UPDATE EXCLUSIVE on the parent,
        which neither readers nor writers notice. Raises `DatabaseUnavailable` (SQLSTATE 55P03) when
        the lock is not acquired within `LOCK_TIMEOUT`; the whole transaction can be tried again.
        """
        await self.session.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        # two makers of one partition would otherwise meet as a duplicate-table error
        await self.session.execute(
            text("SELECT pg_advisory_xact_lock(hashtext('atlas.partitions'))")
        )
        attached = await self.attached()
        made = 0
        covered_until = datetime.min.replace(tzinfo=UTC)
        for moment in sorted(set(timestamps)):
            if moment < covered_until:
                continue
            lower, covered_until, exists = covering(moment, hours, attached)
            if not exists:
                attached.append(await self._make(lower, covered_until))
                made += 1
        return made

    async def _make(self, lower: datetime, upper: datetime) -> Partition:
        # a function of the table's owner: partitions belong to it, whoever writes first
        name = await self.session.scalar(
            text("SELECT atlas_make_partition(:lower, :upper)"), {"lower": lower, "upper": upper}
        )
        return Partition(str(name), lower, upper, 0)
