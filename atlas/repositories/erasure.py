"""Removing every row of a video, and barring its id from coming back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Text, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.repositories.ring.cohorts import Cohorts
from atlas.repositories.ring.membership import Answers
from atlas.repositories.ring.page import KNOWN
from atlas.repositories.ring.pages import Ring, RingReader

#: Ids that were erased and must not come back, wherever a row of theirs still lies.
FORGOTTEN = "FROM video_tombstones WHERE reason = 'forgotten'"
#: The condition on a table of samples.
NOT_FORGOTTEN = f"video_id NOT IN (SELECT video_id {FORGOTTEN})"

# by locks and not by snapshots: those show transactions of every database of the server
_WRITERS = text("""
    SELECT DISTINCT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND pid <> pg_backend_pid()
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND relation IN (
        SELECT CAST(name AS regclass)
        FROM unnest(ARRAY['videos', 'watchlist', 'video_stats_log', 'system_events']) AS name
        UNION ALL SELECT relid FROM pg_partition_tree('video_stats_log')
        UNION ALL SELECT relid FROM pg_partition_tree('system_events'))
    """)


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """Rows that left the database."""

    samples: int = 0
    videos: int = 0
    watchlist: int = 0
    events: int = 0

    def __add__(self, other: ErasedRows) -> ErasedRows:
        return ErasedRows(
            self.samples + other.samples,
            self.videos + other.videos,
            self.watchlist + other.watchlist,
            self.events + other.events,
        )


class ErasureReader:
    """What an erasure would remove, and what earlier ones barred."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def counts(
        self, video_ids: Sequence[str], answers: Answers | None = None
    ) -> tuple[dict[str, dict[str, int]], Mapping[str, frozenset[int]]]:
        """Rows of each id in ``videos``, ``watchlist`` (parked or not) and ``events``; and the ids that may
        be on the watchlist, in files of the vault (see `Watchlist`)."""
        tables = {"videos": "videos WHERE id", "watchlist": "watchlist WHERE video_id"}
        tables["events"] = "system_events WHERE entity_id"
        found = {one: dict.fromkeys(tables, 0) for one in video_ids}
        for name, where in tables.items():
            column = where.rsplit(" ", 1)[1]
            query = f"SELECT {column}, count(*) FROM {where} = ANY(:ids) GROUP BY 1"
            for video_id, count in await self.session.execute(
                _with_ids(query), {"ids": list(video_ids)}
            ):
                found[video_id][name] = count
        seen = await RingReader(self.session).find(video_ids, answers)
        for video_id in seen.sampled:
            found[video_id]["watchlist"] = 1
        return found, seen.undecided

    async def barred(self) -> list[tuple[str, datetime | None]]:
        """Ids that were erased, with when the last of their rows was (None: not yet), in order."""
        rows = await self.session.execute(
            text(f"SELECT video_id, erased_at {FORGOTTEN} ORDER BY video_id")
        )
        return [(video_id, erased_at) for video_id, erased_at in rows]


class Erasure:
    """The steps of forgetting, inside the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def unfinished(self) -> list[str]:
        """Ids that are barred, but may still have rows somewhere."""
        return list(
            await self.session.scalars(text(f"SELECT video_id {FORGOTTEN} AND erased_at IS NULL"))
        )

    async def forgotten(self) -> list[str]:
        """Every id that was forgotten."""
        return list(await self.session.scalars(text(f"SELECT video_id {FORGOTTEN}")))

    async def bar(self, video_ids: Sequence[str]) -> None:
        """From the commit on, rows of these ids do not count and no new ones are taken."""
        await self.session.execute(
            _with_ids(
                "INSERT INTO video_tombstones (video_id, reason) "
                "SELECT id, 'forgotten' FROM unnest(:ids) AS ids (id) ORDER BY id "
                "ON CONFLICT (video_id) DO UPDATE SET reason = 'forgotten', erased_at = NULL"
            ),
            {"ids": list(video_ids)},
        )

    async def writers(self) -> set[str]:
        """Transactions that write where rows of videos lie; those that began before ids were barred may have
        written theirs."""
        return set(await self.session.scalars(_WRITERS))

    async def delete_rows(self, video_ids: Sequence[str]) -> ErasedRows:
        """Delete samples, video, watchlist entry, and events with their deliveries.

        Locks as all others do: rows, then pages of the ring, then cohorts.
        """
        ids = {"ids": list(video_ids)}
        # who is turning the calendar has read the entries, and inserts their rows
        await Cohorts(self.session).lock()
        await self.session.execute(
            _with_ids(
                "DELETE FROM event_deliveries WHERE event_id IN (SELECT id FROM system_events "
                "WHERE entity_id = ANY(:ids) OR payload->>'video_id' = ANY(:ids))"
            ),
            ids,
        )

        async def deleted(target: str) -> list[str]:
            return list(await self.session.scalars(_with_ids(f"DELETE FROM {target}"), ids))

        samples = await deleted("video_stats_log WHERE video_id = ANY(:ids) RETURNING video_id")
        videos = await deleted("videos WHERE id = ANY(:ids) RETURNING id")
        rows = await deleted("watchlist WHERE video_id = ANY(:ids) RETURNING video_id")
        events = await deleted(
            "system_events WHERE entity_id = ANY(:ids) OR payload->>'video_id' = ANY(:ids) "
            "RETURNING event_type"
        )
        removed = await Ring(self.session).remove(video_ids)
        changes = Counter(removed.values())
        await Cohorts(self.session).count({cohort: -count for cohort, count in changes.items()})
        parked = {video_id for video_id, cohort in removed.items() if cohort != KNOWN}
        return ErasedRows(len(samples), len(videos), len(parked | {*rows}), len(events))

    async def finish(self, video_ids: Sequence[str]) -> None:
        """Record that nothing of these ids is left within reach."""
        await self.session.execute(
            _with_ids(
                "UPDATE video_tombstones SET erased_at = now() "
                "WHERE video_id = ANY(:ids) AND reason = 'forgotten'"
            ),
            {"ids": list(video_ids)},
        )


def _with_ids(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("ids", type_=ARRAY(Text)))
