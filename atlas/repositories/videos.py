"""Videos in collection: discovery, the batches of each kind of work, and what became of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from sqlalchemy import ARRAY, Text, bindparam, text

from atlas.errors import InvalidInput
from atlas.models.videos import STATS_DUE, STATS_URGENCY
from atlas.repositories.base import (
    CHUNK,
    as_json,
    chunks,
    known,
    merged,
    on_conflict,
)
from atlas.repositories.channels import UPSERT_CHANNELS, checked_channels
from atlas.repositories.hot.stats import INSERT_SAMPLES, RECORD_COLUMNS
from atlas.repositories.leases import Leases, Queue, held, release
from atlas.repositories.ledger.digests import not_erased
from atlas.repositories.ring.membership import Deciding, Membership
from atlas.repositories.ring.pages import RingReader
from atlas.repositories.status import VideoReader
from atlas.types import Channel, Sample, Video, VideoStatus, check_id, utc

#: Work on a video that finishes once: each kind has its own batches, leases and fact.
Work = Literal["transcript", "visuals"]

_MAX_PRIORITY = 32_767

_OPEN = "status IN ('PENDING', 'PROCESSING')"

_PRIORITY = """
    CASE WHEN (SELECT now FROM clock) - coalesce(published_at, discovered_at) < interval '24 hours'
         THEN 1
         WHEN (SELECT now FROM clock) - coalesce(published_at, discovered_at) < interval '7 days'
         THEN 2 ELSE 3 END
"""

# the index finds what may be due, the rest of the condition what is
_DUE = f"""{STATS_DUE} <= (SELECT timezone('UTC', now) FROM clock)
    AND (last_updated_at IS NULL OR (SELECT now FROM clock) - last_updated_at >
         CASE {_PRIORITY} WHEN 1 THEN interval '1 hour' WHEN 2 THEN interval '6 hours'
         ELSE interval '24 hours' END)"""

#: Videos of each urgency among which a claim looks for those of the highest priority. Only behind a longer
#: backlog the order is by the urgency of before.
_CANDIDATES = 1000

RETRACK = Queue(
    kind="retrack",
    table="videos",
    key="id",
    ready=f"""q.id = ANY (ARRAY(
            SELECT candidate.id
            FROM (VALUES (1), (2), (3)) AS urgency (level) CROSS JOIN LATERAL (
                SELECT id FROM videos WHERE {STATS_URGENCY} = urgency.level AND {_DUE}
                ORDER BY {STATS_DUE} LIMIT greatest(CAST(:limit AS bigint), {_CANDIDATES})
            ) AS candidate))
        AND {_DUE}""",
    order=f"{_PRIORITY}, last_updated_at NULLS FIRST, discovered_at",
    returning=f"q.id, q.title, q.published_at, q.last_updated_at, {_PRIORITY} AS priority",
    prefix="stats_",
)


def _collection(work: Work) -> Queue:
    return Queue(
        kind=work,
        table="videos",
        key="id",
        ready=f"""NOT has_{work} AND {_OPEN}
            AND coalesce({work}_leased_until, discovered_at) <= (SELECT now FROM clock)""",
        order=f"priority DESC, coalesce({work}_leased_until, discovered_at)",
        returning="q.id, q.title, q.published_at, q.discovered_at",
        prefix=f"{work}_",
    )


COLLECTION: dict[Work, Queue] = {
    "transcript": _collection("transcript"),
    "visuals": _collection("visuals"),
}


def _has(work: Work) -> str:
    """The assignments that record a kind of work. A video that has both is DONE by itself."""
    other = "visuals" if work == "transcript" else "transcript"
    return f"""has_{work} = true, {release(f"{work}_")},
        status = CASE WHEN has_{other} AND {_OPEN} THEN 'DONE' ELSE status END"""


_WORK_DONE = {
    work: text(f"UPDATE videos SET {_has(work)} WHERE id = :id RETURNING id") for work in COLLECTION
}

_COLLECTED = {work: text(f"""
        WITH {held(queue, "CAST(:ids AS text[])")}
        UPDATE videos q SET {_has(work)}
        FROM held WHERE q.id = held.key RETURNING q.id
        """) for work, queue in COLLECTION.items()}

# What of a sample is written stands or falls together with the lease.
_RECORD = text(f"""
    WITH report AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:reports AS jsonb)) AS r(
            {RECORD_COLUMNS})
    ),
    {held(RETRACK, "ARRAY(SELECT video_id FROM report)")},
    samples AS ({INSERT_SAMPLES})
    UPDATE videos q
    SET last_updated_at = greatest(q.last_updated_at, clock_timestamp()), {release("stats_")}
    FROM report r, held WHERE q.id = held.key AND r.video_id = held.key
    RETURNING q.id
    """)

_FACTS = {
    "title": "coalesce(nullif(excluded.title, ''), v.title)",
    "priority": "greatest(excluded.priority, v.priority)",
    **known(
        "v",
        "channel_id",
        "published_at",
        "duration",
        "tags",
        "category_id",
        "default_language",
        "wiki_topics",
    ),
}

# Channels come first because the insert needs their count: every caller locks in one order.
_UPSERT = text(f"""
    WITH channel AS ({UPSERT_CHANNELS}),
    offered AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(CAST(:videos AS jsonb)) AS n(
            id text COLLATE "C", channel_id text COLLATE "C", title text, published_at timestamptz,
            duration bigint, tags text[], category_id text, default_language text,
            wiki_topics text[], priority smallint)
        WHERE NOT EXISTS (SELECT FROM video_tombstones t WHERE t.video_id = n.id)
          -- what the ring knows was collected before, unless it is still here
          AND (n.id NOT IN (SELECT unnest(:known))
               OR EXISTS (SELECT FROM videos v WHERE v.id = n.id))
        AND {not_erased("n.id")}
    ),
    written AS (
        INSERT INTO videos AS v (id, {", ".join(_FACTS)})
        SELECT id, {", ".join(_FACTS)}
        FROM offered WHERE (SELECT count(*) FROM channel) >= 0
        ORDER BY id
        {on_conflict("v", "id", _FACTS)}
        RETURNING id, xmax = 0 AS is_new
    )
    SELECT (SELECT count(*) FROM offered), ARRAY(SELECT id FROM written WHERE is_new),
           ARRAY(SELECT id FROM offered WHERE id IN (SELECT unnest(:known)))
    """).bindparams(bindparam("known", type_=ARRAY(Text)))
_REMOVE = text("DELETE FROM videos WHERE id = ANY (:ids)").bindparams(
    bindparam("ids", type_=ARRAY(Text))
)

# rows are locked in the order of their ids, as everywhere: transactions that do so cannot deadlock
_LOCKED = """
    WITH locked AS MATERIALIZED (
        SELECT id FROM videos WHERE id = ANY (CAST(:ids AS text[])) ORDER BY id FOR UPDATE
    )
    UPDATE videos v SET {assignments} FROM locked WHERE v.id = locked.id {condition}
    RETURNING v.id
"""

_SAMPLED = text(
    _LOCKED.format(
        assignments=f"last_updated_at = greatest(v.last_updated_at, :at), {release('stats_')}",
        condition="",
    )
)

_REQUEUE = text(
    _LOCKED.format(
        assignments="status = CASE v.status WHEN 'FAILED' THEN 'PENDING' ELSE v.status END, "
        # of a FAILED video nobody can go on; where one kind of work is in quarantine, others may be leased
        + ", ".join(
            f"{work}_{column} = CASE WHEN v.status = 'FAILED' OR v.{work}_lease IS NULL THEN {free} "
            f"ELSE v.{work}_{column} END"
            for work in COLLECTION
            for column, free in (
                ("leased_until", "NULL"),
                ("lease", "NULL"),
                ("attempts", "0"),
                ("error", "NULL"),
            )
        ),
        condition="""AND (v.status = 'FAILED' OR v.transcript_leased_until = 'infinity'
            OR v.visuals_leased_until = 'infinity')""",
    )
)


@dataclass(frozen=True, slots=True)
class OpenVideo:
    """A video leased for its transcript or visuals. ``lease`` is the token."""

    id: str
    title: str
    published_at: datetime | None
    discovered_at: datetime
    lease: uuid.UUID
    attempts: int
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class StaleVideo:
    """A video leased for a fresh sample. ``priority`` 1 is the most urgent, 3 the least."""

    id: str
    title: str
    published_at: datetime | None
    last_updated_at: datetime | None
    priority: int
    lease: uuid.UUID
    attempts: int
    claimed_at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """How many videos were taken, and the ids of those that were not there before."""

    videos: int
    new: Sequence[str]


class Videos(Deciding, VideoReader):
    """Changes videos."""

    async def upsert(self, videos: Iterable[Video], channels: Iterable[Channel] = ()) -> int:
        """`discover`, for who asks only how many were taken."""
        return (await self.discover(videos, channels)).videos

    async def discover(
        self,
        videos: Iterable[Video],
        channels: Iterable[Channel] = (),
        seen: Membership | None = None,
    ) -> Taken:
        """Add videos and their channels, or add to what is known of them.

        What is not known (None, an empty title) never replaces what is, and a priority only rises.
        Videos that were collected before are left out. A look at the ring, unless it was ``seen`` for all
        of them in this transaction, and one statement up to `CHUNK` videos.
        """
        video_list = [self._checked(video) for video in videos]
        priority = {video.id: 0 for video in video_list}
        for video in video_list:
            priority[video.id] = max(priority[video.id], video.priority)
        unique = [
            (
                video
                if video.priority == priority[video.id]
                else replace(video, priority=priority[video.id])
            )
            for video in merged(video_list)
        ]
        known_channels = checked_channels(channels)
        if max(len(unique), len(known_channels)) <= CHUNK:
            return await self._upsert(unique, known_channels, seen)
        for channel_part in chunks(known_channels):
            await self._upsert((), channel_part, seen)
        taken = [await self._upsert(part, (), seen) for part in chunks(unique)]
        return Taken(
            sum(part.videos for part in taken), [new for part in taken for new in part.new]
        )

    async def _upsert(
        self, videos: Sequence[Video], channels: Iterable[Channel], seen: Membership | None
    ) -> Taken:
        ring = RingReader(self.session)
        published = {video.id: video.published_at for video in videos}
        if seen is None:
            seen = await ring.find(published, self._answers, published)
        values = {
            "videos": as_json(videos),
            "channels": as_json(channels),
            "known": [*seen.cohorts, *self._note(seen, published.keys() - seen.cohorts.keys())],
        }
        taken, new, here = (await self.session.execute(_UPSERT, values)).one()
        for video_id in here:
            self.undecided.pop(video_id, None)
        # what was removed and put into the ring between the look and the insert
        if new and await ring.has_changed(seen):
            seen = await ring.find(new, self._answers, published)
            late = seen.cohorts.keys() | self._note(seen, {*new} - seen.cohorts.keys())
            await self.take_back(late)
            taken, new = taken - len(late), [one for one in new if one not in late]
        return Taken(taken, new)

    async def take_back(self, video_ids: Iterable[str]) -> None:
        """Delete videos that `discover` added in this transaction."""
        await self.session.execute(_REMOVE, {"ids": list(video_ids)})

    @staticmethod
    def _checked(video: Video) -> Video:
        check_id(video.id)
        if video.channel_id is not None:
            check_id(video.channel_id, field="channel_id")
        if video.published_at is not None:
            utc(video.published_at, field="published_at")
        if not 0 <= video.priority <= _MAX_PRIORITY:
            raise InvalidInput(
                f"priority is out of range: {video.priority}",
                field="priority",
                value=video.priority,
                hint=f"0 to {_MAX_PRIORITY}; the higher, the sooner",
            )
        return video

    async def claim_work(self, work: Work, limit: int) -> list[OpenVideo]:
        """Lease up to ``limit`` open videos that lack ``work``: highest priority first, then oldest."""
        rows = await Leases(self.session, COLLECTION[work]).claim(limit)
        return [OpenVideo(*row) for row in rows]

    async def claim_stats(self, limit: int) -> list[StaleVideo]:
        """Lease up to ``limit`` videos whose counters are due, most urgent first, then longest unsampled.

        Due: younger than a day (priority 1) and not sampled for an hour, younger than a week (2) and
        not for six hours, older (3) and not for a day; never sampled. Age counts from publication, or
        from discovery where that is not known. The status plays no part: a video that is done, or
        failed in collection, still has counters.
        """
        return [StaleVideo(*row) for row in await Leases(self.session, RETRACK).claim(limit)]

    async def record(self, token: uuid.UUID, samples: Sequence[Sample]) -> set[str]:
        """Write samples and end the stats leases, in one statement; returns the ids still held.

        The videos count as sampled now, whatever the times of the samples: one of long ago would leave
        its video due. For the others nothing is written, no sample either. SQLSTATE 23514 without a
        constraint: a sample has no partition.
        """
        values = {"token": token, "reports": as_json(samples)}
        return set(await self.session.scalars(_RECORD, values))

    async def collected(self, token: uuid.UUID, work: Work, video_ids: Iterable[str]) -> set[str]:
        """Record that ``work`` is in the vault and end the leases; returns the ids still held."""
        values = {"token": token, "ids": list(video_ids)}
        return set(await self.session.scalars(_COLLECTED[work], values))

    async def sampled(self, video_ids: Iterable[str], at: datetime) -> set[str]:
        """Record that counters were fetched, and end the stats leases; returns the ids there were."""
        result = await self.session.execute(
            _SAMPLED, {"ids": list(video_ids), "at": utc(at, field="at")}
        )
        return set(result.scalars())

    async def mark_work(self, video_id: str, work: Work) -> bool:
        """Record that the transcript, or the visuals, are in the vault, whoever holds a lease.

        False: there is no such video (any more), and so nothing to record it on.
        """
        result = await self.session.execute(_WORK_DONE[work], {"id": check_id(video_id)})
        return result.scalar() is not None

    async def mark_status(self, video_id: str, status: VideoStatus) -> bool:
        """Record the status, whatever it was. False: there is no such video (any more)."""
        result = await self.session.execute(
            text("UPDATE videos SET status = :status WHERE id = :id RETURNING id"),
            {"id": check_id(video_id), "status": status},
        )
        return result.scalar() is not None

    async def requeue(self, video_ids: Iterable[str]) -> int:
        """Bring FAILED videos back to PENDING, and those in quarantine; claimable at once.

        Returns how many there were.
        """
        result = await self.session.execute(_REQUEUE, {"ids": list(video_ids)})
        return len(result.all())
