"""Pieces of work as a worker sees them: what was claimed, and the word that is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from atlas.errors import InvalidInput
from atlas.ingest import AHEAD
from atlas.redaction import redact
from atlas.repositories.hot.stats import check_counter, checked
from atlas.repositories.leases import ERROR_LENGTH, Ending, Unfinished
from atlas.repositories.search_queue import LeasedTerm, SearchReport
from atlas.repositories.videos import OpenVideo, StaleVideo
from atlas.repositories.watchlist import DueVideo, Recorded
from atlas.scheduling.policies import INTERVALS, Observation, Policy, Schedule, jittered
from atlas.types import Sample, SearchStatus, TrackingTier

#: Answers of the API in a row that leave a video out, after which it is asked for once a month.
OMISSIONS_TO_DORMANT = 3

#: Seconds that a piece of work can be put off: a later time is a mistake.
_LONGEST_WAIT = timedelta(days=366).total_seconds()

R = TypeVar("R")


class Batch(Protocol):
    """What an item needs of its batch."""

    policy: Policy

    def now(self) -> datetime:
        """The time by the database's clock."""
        ...


class Item(Generic[R]):
    """A piece of work on lease. Say one of its words; the batch sends them.

    ``row`` is what was claimed and ``key`` its id; ``lost`` turns True when a renewal shows that the lease
    is another's: then the work may be dropped.
    """

    def __init__(self, row: R, key: str, batch: Batch) -> None:
        self.row, self.key = row, key
        self.lost = False
        self.sending = self.sent = False
        self.word: object = None
        self._batch = batch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key}>"

    def retry(self, after: timedelta = timedelta()) -> None:
        """Not now: let it be claimed again in ``after``, a year at most. Costs no attempt."""
        seconds = after.total_seconds()
        if not 0 <= seconds <= _LONGEST_WAIT:
            raise InvalidInput(
                f"after is out of range: {after}",
                field="after",
                value=after,
                hint="give a time from none to a year",
            )
        self._say(Unfinished(self.key, Ending.RETRY, seconds))

    def fail(self, reason: str) -> None:
        """It went wrong: let it be claimed again later each time, until its attempts are spent.

        ``reason`` is kept in the row, up to 500 characters, with secrets masked.
        """
        # names of files may hold what is no Unicode
        text = reason.encode(errors="replace").decode().replace("\x00", "")
        reason = redact(text, ERROR_LENGTH)
        self._say(Unfinished(self.key, Ending.FAIL, error=reason))

    def _say(self, word: object) -> None:
        if self.sending or self.sent:
            raise InvalidInput(
                f"{self.key} was reported before", value=self.key, hint="one word ends a lease"
            )
        self.word = word


class SearchItem(Item[LeasedTerm]):
    """A search term."""

    def done(
        self,
        next_page_token: str | None,
        results: int,
        status: SearchStatus = SearchStatus.ACTIVE,
    ) -> None:
        """A page of ``results`` was read; go on from ``next_page_token``.

        Raises `InvalidInput` for what cannot be stored.
        """
        if next_page_token is not None and not (
            isinstance(next_page_token, str)
            and next_page_token.isascii()
            and "\x00" not in next_page_token
        ):
            raise InvalidInput(
                f"not a page token: {next_page_token!r:.80}",
                field="next_page_token",
                value=next_page_token,
                hint="give the API's nextPageToken, or None",
            )
        if status not in tuple(SearchStatus):
            raise InvalidInput(
                f"not a search status: {status!r:.80}",
                field="status",
                value=status,
                hint="status is " + " or ".join(SearchStatus),
            )
        results = check_counter(results, "results") or 0
        self._say(SearchReport(self.key, next_page_token, results, SearchStatus(status)))


class CollectItem(Item[OpenVideo]):
    """A video that lacks its transcript, or its visuals."""

    def done(self) -> None:
        """They are in the vault."""
        self._say(self.key)


class SampledItem(Item[R]):
    """A video whose counters are wanted."""

    def done(
        self,
        views: int | None = None,
        likes: int | None = None,
        comment_count: int | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """The counters as they were at ``timestamp``: now, by the database's clock, if not given.

        Raises `InvalidInput`, as `atlas.ingest.record_samples` does.
        """
        now = self._batch.now()
        sample = Sample(self.key, timestamp or now, views, likes, comment_count)
        checked([sample], now + AHEAD)
        self.sampled(sample)

    def sampled(self, sample: Sample) -> None:
        """`done`, with a sample that was checked."""
        raise NotImplementedError

    def omitted(self) -> None:
        """The API's answer left the video out."""
        raise NotImplementedError


class RetrackItem(SampledItem[StaleVideo]):
    """A video in collection whose counters are due."""

    def sampled(self, sample: Sample) -> None:
        self._say(sample)

    def omitted(self) -> None:
        """Counts as a failure: asked for less and less often, and put aside in the end."""
        self.fail("the answer left the video out")


class TrackItem(SampledItem[DueVideo]):
    """A video of the watchlist that is due."""

    def sampled(self, sample: Sample) -> None:
        row = self.row
        # it became dormant because answers left it out, and here it is again
        tier = None if row.omissions >= OMISSIONS_TO_DORMANT else TrackingTier(row.tracking_tier)
        schedule = self._batch.policy.schedule(
            Observation(
                row.video_id,
                row.published_at,
                tier,
                sample.timestamp,
                sample.views,
                row.last_tracked_at,
                row.last_views,
            )
        )
        now = self._batch.now()
        if schedule.next_track_at <= now:
            # of a clock that is behind every sample would be due again at once, for ever
            due = now + max(schedule.next_track_at - sample.timestamp, timedelta(0))
            schedule = Schedule(schedule.tier, due)
        self._say(_recorded(schedule, sample, 0))

    def omitted(self) -> None:
        """Three times in a row make the video DORMANT: asked for once a month, until it is there again."""
        row = self.row
        omissions = min(row.omissions + 1, OMISSIONS_TO_DORMANT)
        tier = TrackingTier(row.tracking_tier)
        if omissions == OMISSIONS_TO_DORMANT:
            tier = TrackingTier.DORMANT
        schedule = Schedule(tier, self._batch.now() + jittered(INTERVALS[tier], row.video_id))
        self._say(_recorded(schedule, Sample(row.video_id, self._batch.now()), omissions))


def _recorded(schedule: Schedule, sample: Sample, omissions: int) -> Recorded:
    return Recorded(
        sample.video_id,
        schedule.tier,
        schedule.next_track_at,
        None if omissions else sample.timestamp,
        sample.views,
        sample.likes,
        sample.comment_count,
        omissions,
    )


def samples_of(words: Sequence[object]) -> list[Sample]:
    """The samples in what is reported: they need partitions."""
    return [
        Sample(word.video_id, word.timestamp)
        for word in words
        if isinstance(word, Recorded | Sample) and word.timestamp is not None
    ]
