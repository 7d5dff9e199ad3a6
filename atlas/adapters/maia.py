"""Data access for the Maia service's agents. No SQL here: each method delegates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from atlas.adapters.maia_ghost import GhostTrackingMixin
from atlas.adapters.rows import JanitorResult, SearchTerm, TrackerTarget, VideoWork
from atlas.adapters.youtube import item_id, parse_statistics, parse_video
from atlas.config import get_settings
from atlas.db import Database, db
from atlas.db.clock import Session
from atlas.errors import InvalidInput
from atlas.events import bus_of
from atlas.ingest import parse_sample, record_samples
from atlas.logging import get_logger
from atlas.parsing import parse_age, parse_counter
from atlas.repositories.leases import Head
from atlas.repositories.ring.membership import Answers
from atlas.repositories.search_queue import SearchQueue
from atlas.repositories.videos import Videos, Work
from atlas.repositories.watchlist import NewEntry, Watchlist
from atlas.scheduling.calendar import Calendar
from atlas.scheduling.undecided import Undecided, until_decided
from atlas.types import (
    Channel,
    ReadableStore,
    Sample,
    SearchStatus,
    Taken,
    TrackingTier,
    Video,
    VideoStatus,
    check_id,
)

if TYPE_CHECKING:

    from atlas.vault import Vault

__all__ = ["MaiaDAO"]

log = get_logger(__name__)

#: The event that is emitted for each fact.
_SAFE: Mapping[Work, str] = {
    "transcript": "video.transcript_safe",
    "visuals": "video.visuals_safe",
}
_ENDED = {VideoStatus.DONE: "video.done", VideoStatus.FAILED: "video.failed"}

T = TypeVar("T")


def _each(
    items: Iterable[Any], parse: Callable[[Any, int], T]
) -> tuple[list[T], tuple[InvalidInput, ...]]:
    """What could be read of each item, and the errors of the others."""
    found, errors = [], []
    for row, item in enumerate(items):
        try:
            found.append(parse(item, row))
        except InvalidInput as error:
            log.warning("item_left_out", row=row, field=error.field, error=str(error))
            errors.append(error)
    return found, tuple(errors)


class MaiaDAO(GhostTrackingMixin):
    """Everything that agents ask of Atlas's database. Each call is one transaction, and adding or discovering
    videos a further one for those of whom only files in the vault say whether they are known.

    Rows come back as plain dicts with exactly the keys named. What a ``fetch_*`` call leases no other
    caller gets until it is reported, or the lease runs out: after 10 minutes by the database's clock,
    and twice as long each time that it was not reported, up to a day. Naive times are taken as UTC.
    """

    def __init__(self, database: Database | None = None, vault: Vault | None = None) -> None:
        self.database = db if database is None else database
        self.vault = vault
        self._watchlist_head = Head()
        self._calendar = Calendar(self.database, self._store)

    def _store(self) -> ReadableStore:
        from atlas.vault import get_vault

        return (self.vault or get_vault()).store

    async def fetch_hunter_batch(self, batch_size: int = 10) -> list[SearchTerm]:
        """Lease active search terms, by priority, then mentions.

        Keys: id, query_term, next_page_token, last_searched_at, priority. `update_search_state`
        reports them.
        """
        async with self.database.autocommit() as session:
            terms = await SearchQueue(session).claim(batch_size)
        return [
            {
                "id": term.id,
                "query_term": term.query_term,
                "next_page_token": term.next_page_token,
                "last_searched_at": term.last_searched_at,
                "priority": term.priority,
            }
            for term in terms
        ]

    async def update_search_state(
        self, topic_id: int, next_token: str | None, result_count: int, status: str = "active"
    ) -> None:
        """Report a search: where to go on, how many results it had, and whether there are more.

        ``status`` is ``active`` or ``exhausted``. Raises `NotFound` for an unknown term.
        """
        term_id = parse_counter(topic_id, field="topic_id")
        if term_id is None:
            raise InvalidInput("topic_id is missing", field="topic_id", hint="give a term's id")
        try:
            state = SearchStatus(status)
        except ValueError:
            hint = "status is " + " or ".join(SearchStatus)
            raise InvalidInput(
                f"not a search status: {status!r:.80}", field="status", value=status, hint=hint
            ) from None
        results = parse_counter(result_count, field="result_count") or 0
        async with self.database.transaction() as session:
            term = await SearchQueue(session).report(
                term_id, next_page_token=next_token, results=results, status=state
            )
            if state is SearchStatus.EXHAUSTED:
                bus = bus_of(self.database)
                await bus.emit("search.exhausted", str(term_id), {"term": term}, session=session)

    async def add_to_search_queue(self, terms: Iterable[str]) -> int:
        """Add search terms; a repeat raises the mention count. Returns how many distinct ones were taken.

        Case and space do not distinguish terms. New terms beyond 100,000 are not taken.
        """
        if isinstance(terms, str):
            raise InvalidInput("terms is one text", field="terms", value=terms, hint="give a list")
        async with self.database.transaction() as session:
            queue = SearchQueue(session)
            taken = await queue.add(terms)
            if queue.added:
                facts = {"terms": queue.added}
                await bus_of(self.database).emit("search.added", payload=facts, session=session)
            return taken

    async def ingest_video_metadata(
        self, video_data: Mapping[str, Any], priority_override: int | None = None
    ) -> None:
        """Add a YouTube item's video and channel, or add to what is known of them.

        Without a usable id a warning is logged and nothing is written. A video that was collected and
        cleaned up before is left alone. ``priority_override`` (0 to 32,767) puts it ahead of others
        in the scribe and painter batches. Raises `InvalidInput` for a time or duration that cannot
        be read.
        """
        try:
            item_id(video_data)
        except InvalidInput as error:
            log.warning("video_without_usable_id", error=str(error))
            return
        await self._write([parse_video(video_data, priority=priority_override or 0)])

    async def ingest_videos(self, items: Sequence[Mapping[str, Any]]) -> Taken:
        """`ingest_video_metadata` for many, in one round trip; returns how many videos were taken.

        An item that cannot be taken costs itself only: it is logged, and in ``left_out`` of what is
        returned.
        """
        found, errors = _each(items, lambda item, row: parse_video(item, row=row))
        return Taken(await self._write(found), errors)

    async def _write(self, found: Sequence[tuple[Video, Channel | None]]) -> int:
        if not found:
            return 0
        count = 0

        async def write(only: Collection[str] | None, answers: Answers | None) -> Undecided:
            nonlocal count
            part = [one for one in found if only is None or one[0].id in only]
            taken, undecided = await self._write_known(part, answers)
            count += taken
            return undecided

        await until_decided(self.database, self._store, write)
        return count

    async def _write_known(
        self, found: Sequence[tuple[Video, Channel | None]], answers: Answers | None
    ) -> tuple[int, Undecided]:
        """Write those that were not collected before, in one transaction; returns which may have been."""
        channels = [channel for _, channel in found if channel is not None]
        async with self.database.transaction() as session:
            videos = [video for video, _ in found]
            repository, watchlist = Videos(session, answers), Watchlist(session, answers)
            taken = await repository.discover(videos, channels)
            new = {*taken.new}
            if new and get_settings().watchlist_on_ingest:
                published = {video.id: video.published_at for video in videos}
                await watchlist.add(
                    NewEntry(video_id, published_at=published[video_id]) for video_id in taken.new
                )
                await self._emit_added(session, watchlist.added, TrackingTier.HOURLY)
                # moved to the vault since `discover` looked
                await repository.take_back(watchlist.undecided)
                new -= watchlist.undecided.keys()
            if new:
                await self._tell_discovered(session, videos, new)
            count = taken.videos - len(watchlist.undecided)
            return count, repository.undecided | watchlist.undecided

    async def _tell_discovered(
        self, session: Session, videos: Sequence[Video], new: set[str]
    ) -> None:
        found = {video.id: video for video in videos if video.id in new}
        discovered = [
            (
                "video.discovered",
                video.id,
                {
                    "video_id": video.id,
                    "channel_id": video.channel_id,
                    "published_at": video.published_at,
                },
            )
            for video in found.values()
        ]
        await bus_of(self.database).emit_many(discovered, session=session)

    async def fetch_tracker_targets(self, batch_size: int = 50) -> list[TrackerTarget]:
        """Lease videos whose counters are due, by priority, then longest unsampled.

        Keys: id, title, published_at, last_updated_at, priority (1: under 24 hours old, sampled over
        an hour ago; 2: under 7 days, over 6 hours; 3: older, over 24 hours).
        `update_video_stats_batch` reports them.
        """
        async with self.database.autocommit() as session:
            videos = await Videos(session).claim_stats(batch_size)
        return [
            {
                "id": video.id,
                "title": video.title,
                "published_at": video.published_at,
                "last_updated_at": video.last_updated_at,
                "priority": video.priority,
            }
            for video in videos
        ]

    async def log_video_stats_batch(self, stats: Sequence[Mapping[str, Any]]) -> int:
        """Write samples, all or none; returns how many distinct ones.

        Each has video_id and, if known, views, likes, comment_count and timestamp (default: now, by
        the database's clock). The last write of a (video_id, timestamp) replaces the row. Raises
        `InvalidInput` naming row and field.
        """
        rows = list(stats)
        if not rows:
            return 0

        def samples(now: datetime) -> list[Sample]:
            return [parse_sample(row, number, now) for number, row in enumerate(rows)]

        return await record_samples(self.database, samples)

    async def update_video_stats_batch(self, items: Sequence[Mapping[str, Any]]) -> Taken:
        """Report fetched counters from raw API items (``id``, ``statistics``), and end the leases.

        Items without any counter are reported too, but give no sample. Returns the number of samples. An
        item that cannot be taken costs itself only: it is logged, and in ``left_out`` of what is returned.
        """
        fetched, errors = _each(
            items, lambda item, row: (item_id(item, row=row), parse_statistics(item, row=row))
        )
        if not fetched:
            return Taken(0, errors)

        def samples(now: datetime) -> list[Sample]:
            return [
                Sample(video_id, now, **counters)
                for video_id, counters in fetched
                if any(value is not None for value in counters.values())
            ]

        async def report(session: Session, now: datetime) -> None:
            await Videos(session).sampled((video_id for video_id, _ in fetched), now)

        return Taken(await record_samples(self.database, samples, then=report), errors)

    async def fetch_scribe_batch(self, batch_size: int = 10) -> list[VideoWork]:
        """Lease open videos without a transcript, oldest first.

        Keys: id, title, published_at, discovered_at. `mark_video_transcript_safe` reports them.
        """
        return await self._fetch_work("transcript", batch_size)

    async def fetch_painter_batch(self, batch_size: int = 5) -> list[VideoWork]:
        """Lease open videos without visuals, oldest first.

        Keys: id, title, published_at, discovered_at. `mark_video_visuals_safe` reports them.
        """
        return await self._fetch_work("visuals", batch_size)

    async def _fetch_work(self, work: Work, batch_size: int) -> list[VideoWork]:
        async with self.database.autocommit() as session:
            videos = await Videos(session).claim_work(work, batch_size)
        return [
            {
                "id": video.id,
                "title": video.title,
                "published_at": video.published_at,
                "discovered_at": video.discovered_at,
            }
            for video in videos
        ]

    async def mark_video_transcript_safe(self, video_id: str) -> None:
        """Record that the transcript is in the vault, whoever holds the lease now."""
        await self._mark_work(video_id, "transcript")

    async def mark_video_visuals_safe(self, video_id: str) -> None:
        """Record that the visuals are in the vault, whoever holds the lease now."""
        await self._mark_work(video_id, "visuals")

    async def mark_video_done(self, video_id: str) -> None:
        """Record that collection is finished; the video leaves the scribe and painter batches."""
        await self._mark_status(video_id, VideoStatus.DONE)

    async def mark_video_failed(self, video_id: str) -> None:
        """Record that collection failed; the video leaves the scribe and painter batches."""
        await self._mark_status(video_id, VideoStatus.FAILED)

    async def requeue(self, video_ids: Iterable[str]) -> int:
        """Bring FAILED videos back, to be collected at once; returns how many there were."""
        ids = [check_id(video_id, row=row) for row, video_id in enumerate(video_ids)]
        async with self.database.transaction() as session:
            count = await Videos(session).requeue(ids)
            if count:
                bus = bus_of(self.database)
                await bus.emit("video.requeued", payload={"videos": count}, session=session)
        return count

    async def _mark_work(self, video_id: str, work: Work) -> None:
        async with self.database.transaction() as session:
            recorded = await Videos(session).mark_work(video_id, work)
            if recorded:
                await self._emit(_SAFE[work], video_id, session)
        if not recorded:
            log.warning("marked_video_unknown", video_id=video_id, fact=work)

    async def _mark_status(self, video_id: str, status: VideoStatus) -> None:
        async with self.database.transaction() as session:
            recorded = await Videos(session).mark_status(video_id, status)
            if recorded:
                await self._emit(_ENDED[status], video_id, session)
        if not recorded:
            log.warning("marked_video_unknown", video_id=video_id, fact=status.value)

    async def _emit(self, event_type: str, video_id: str, session: Session) -> None:
        payload = {"video_id": video_id}
        await bus_of(self.database).emit(event_type, video_id, payload, session=session)

    async def archive_cold_stats(
        self, retention_days: float = 7, batch_size: int | None = None
    ) -> int:
        """Archive samples older than ``retention_days``; returns the rows archived by this call.

        ``batch_size`` is a soft cap: the call stops after the slice that reaches it. Raises
        `ArchiverBusy` while another archiver is at work.
        """
        from atlas.archive import Archiver

        report = await Archiver(self.database, self.vault).run(
            older_than=parse_age(retention_days, field="retention_days"), max_rows=batch_size
        )
        return report.rows

    async def run_janitor(self, dry_run: bool = False) -> JanitorResult:
        """Remove videos that are done and safe in the vault; see `atlas.janitor.Janitor.run`."""
        from atlas.janitor import Janitor

        result = await Janitor(self.database, self.vault).run(dry_run=dry_run)
        return cast(JanitorResult, result)
