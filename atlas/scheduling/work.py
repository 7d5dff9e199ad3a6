"""Claiming work, keeping it, and reporting it: the typed API beside `MaiaDAO`."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

import structlog

from atlas.db import db
from atlas.db.locks import retry_when_locked
from atlas.errors import AtlasError, DatabaseUnavailable, InvalidInput, LeaseLost
from atlas.ingest import AHEAD, with_partitions
from atlas.repositories.leases import (
    Ending,
    Head,
    LeaseCounts,
    Leases,
    Quarantined,
    Queue,
    Unfinished,
)
from atlas.repositories.search_queue import HUNT, LeasedTerm, SearchQueue
from atlas.repositories.stats import checked
from atlas.repositories.videos import COLLECTION, RETRACK, OpenVideo, StaleVideo, Videos
from atlas.repositories.watchlist import TRACK, DueVideo, Watchlist
from atlas.scheduling.items import (
    CollectItem,
    Item,
    RetrackItem,
    SampledItem,
    SearchItem,
    TrackItem,
    samples_of,
)
from atlas.scheduling.policies import AgePolicy, Policy
from atlas.types import Sample

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from atlas.db import Database

__all__ = ["Batch", "Work"]

log = structlog.get_logger()

Collected = Literal["transcript", "visuals"]
ItemT = TypeVar("ItemT", bound=Item[Any])

#: Seconds between renewals: three may fail before a lease of ten minutes runs out.
RENEW_EVERY = 180.0
#: Seconds after which a renewal that failed is tried again, at most.
_RENEW_AGAIN = 10.0
#: Seconds that a worker which is being shut down gives to its last reports.
_LAST_WORDS = 10.0
#: Seconds that `Work.stream` waits after an empty claim, at first and at most.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """What differs between the kinds of work. ``record`` gives the keys that were still held."""

    queue: Queue
    item: Callable[..., Item[Any]]
    row: Callable[..., Any]
    record: Callable[[AsyncSession, uuid.UUID, Any], Awaitable[set[str]]]


_KINDS = {
    "hunt": _Kind(
        HUNT, SearchItem, LeasedTerm, lambda session, *report: SearchQueue(session).record(*report)
    ),
    "track": _Kind(
        TRACK, TrackItem, DueVideo, lambda session, *report: Watchlist(session).record(*report)
    ),
    "retrack": _Kind(
        RETRACK, RetrackItem, StaleVideo, lambda session, *report: Videos(session).record(*report)
    ),
    "transcript": _Kind(
        COLLECTION["transcript"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "transcript", ids),
    ),
    "visuals": _Kind(
        COLLECTION["visuals"],
        CollectItem,
        OpenVideo,
        lambda session, token, ids: Videos(session).collected(token, "visuals", ids),
    ),
}
KINDS = tuple(_KINDS)


class Work:
    """The five kinds of work: ``hunt``, ``track``, ``retrack``, ``transcript``, ``visuals``.

    What one worker has claimed no other gets until it is reported, released, or the lease has run out by
    the database's clock. ``policy`` says when a sampled video is due again. While a renewal fails nothing
    more is claimed.
    """

    def __init__(
        self,
        database: Database | None = None,
        *,
        policy: Policy | None = None,
        renew_every: float = RENEW_EVERY,
    ) -> None:
        self.database = db if database is None else database
        self.policy = AgePolicy() if policy is None else policy
        self.renew_every = renew_every
        self._open: weakref.WeakSet[Batch[Any]] = weakref.WeakSet()
        self._heads: dict[Queue, Head] = {}

    @overload
    def claim(self, kind: Literal["hunt"], limit: int = 50) -> Batch[SearchItem]: ...
    @overload
    def claim(self, kind: Literal["track"], limit: int = 50) -> Batch[TrackItem]: ...
    @overload
    def claim(self, kind: Literal["retrack"], limit: int = 50) -> Batch[RetrackItem]: ...
    @overload
    def claim(self, kind: Collected, limit: int = 50) -> Batch[CollectItem]: ...

    def claim(self, kind: str, limit: int = 50) -> Batch[Any]:
        """Up to ``limit`` pieces of work: ``async with work.claim("track") as batch``.

        The batch renews its leases by itself. At the end what was said of each item is sent, in one
        transaction, and what nothing was said of is released, at the cost of no attempt; after an error
        and a cancellation as well. One round trip claims, one reports.

        Raises `InvalidInput` for an unknown kind; on entering, `DatabaseUnavailable`; at the end,
        `LeaseLost` for those that another worker has by now: for them nothing was changed.
        """
        return Batch(self, _kind(kind), limit)

    @overload
    def stream(
        self, kind: Literal["hunt"], limit: int = 50
    ) -> AsyncIterator[Batch[SearchItem]]: ...
    @overload
    def stream(
        self, kind: Literal["track"], limit: int = 50
    ) -> AsyncIterator[Batch[TrackItem]]: ...
    @overload
    def stream(
        self, kind: Literal["retrack"], limit: int = 50
    ) -> AsyncIterator[Batch[RetrackItem]]: ...
    @overload
    def stream(self, kind: Collected, limit: int = 50) -> AsyncIterator[Batch[CollectItem]]: ...

    async def stream(self, kind: str, limit: int = 50) -> AsyncIterator[Batch[Any]]:
        """Batches for ever: ``async for batch in work.stream("track"): async with batch: ...``.

        While there is nothing to do it asks again after 1, 2, 4 ... 30 seconds, each time by a random half
        more or less, so that workers that were started together do not ask together; likewise while the
        database cannot be reached. Cancel the task to stop it.
        """
        wait = _FIRST_WAIT
        while True:
            batch: Batch[Any] = Batch(self, _kind(kind), limit)
            try:
                await batch.open()
            except DatabaseUnavailable as error:
                log.warning("no_work_claimed", kind=kind, error=str(error))
            if not len(batch):
                await batch.close()
                await _pause(wait * random.uniform(0.5, 1.5))
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            try:
                yield batch
            finally:
                await batch.close()  # where the caller did not

    async def requeue(self, kind: str, keys: Iterable[str | int] | None = None) -> int:
        """Bring work out of quarantine, and FAILED videos back; returns how many rows there were.

        Without ``keys`` it is all that is in quarantine of that kind. Raises `InvalidInput` for a term's
        id that is no number.
        """
        queue = _kind(kind).queue
        async with self.database.transaction() as session:
            if keys is not None and kind in COLLECTION:
                return await Videos(session).requeue(map(str, keys))
            return await Leases(session, queue).requeue(
                None if keys is None else _keys(queue, keys)
            )

    async def quarantined(self, kind: str, limit: int = 100) -> list[Quarantined]:
        """Work that nobody is given any more, with its last error."""
        async with self.database.transaction(read_only=True) as session:
            return await Leases(session, _kind(kind).queue).quarantined(limit)

    async def counts(self) -> list[LeaseCounts]:
        """How much of each kind is leased, waits after a failure, is in quarantine."""
        async with self.database.transaction(read_only=True) as session:
            return [await Leases(session, kind.queue).counts() for kind in _KINDS.values()]

    def _head_of(self, queue: Queue) -> Head:
        return self._heads.setdefault(queue, Head())

    def check_heartbeats(self) -> None:
        """Raise `DatabaseUnavailable` while the leases of another batch cannot be renewed."""
        for batch in self._open:
            if batch.failing is not None:
                raise DatabaseUnavailable(
                    f"the leases of {batch!r} could not be renewed, so nothing more is claimed",
                    hint="wait until the database answers; what is held runs out and comes back",
                ) from batch.failing


class Batch(Generic[ItemT]):
    """Claimed work: iterate over its items. Made by `Work.claim` and `Work.stream`."""

    def __init__(self, work: Work, kind: _Kind, limit: int) -> None:
        self.policy = work.policy
        #: Why the last renewal failed; None: it did not.
        self.failing: AtlasError | None = None
        self._work, self._kind, self._limit = work, kind, limit
        self._token = uuid.uuid4()
        self._items: dict[str, ItemT] = {}
        self._clock = 0.0
        self._claimed_at: datetime | None = None
        self._beating: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<{self._kind.queue.kind} batch of {len(self._items)}>"

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[ItemT]:
        return iter(list(self._items.values()))

    def now(self) -> datetime:
        """The database's clock, as learned with the claim and counted on from there."""
        if self._claimed_at is None:
            raise InvalidInput("an empty batch has no clock", hint="claim something first")
        return self._claimed_at + timedelta(seconds=time.monotonic() - self._clock)

    async def open(self) -> None:
        """Claim. ``async with`` does it; repeating it does nothing."""
        if self._beating is not None:
            return
        self._work.check_heartbeats()
        claiming = asyncio.create_task(self._claim())
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # nobody would know of what is claimed meanwhile
            await asyncio.wait([claiming], timeout=_LAST_WORDS)
            if not claiming.cancel() and claiming.exception() is None:
                try:
                    await self.close()
                except AtlasError as error:
                    log.warning("last_report_failed", batch=repr(self), error=str(error))
            raise

    async def _claim(self) -> None:
        async with self._work.database.autocommit() as session:
            self._token, self._items, self._clock = uuid.uuid4(), {}, time.monotonic()
            rows = await Leases(session, self._kind.queue).claim(
                self._limit, self._token, self._work._head_of(self._kind.queue)
            )
        for values in rows:
            row = self._kind.row(*values)
            self._claimed_at = row.claimed_at
            key = str(values[0])
            self._items[key] = cast(ItemT, self._kind.item(row, key, self))
        self._work._open.add(self)
        self._beating = asyncio.create_task(self._beat())

    async def record_samples(
        self, samples: Iterable[Sample], asked: Iterable[str] | None = None
    ) -> int:
        """Write samples, reschedule and end leases in one transaction; returns how many were written.

        ``asked`` are the ids that the API was asked for, by default all of which nothing was said yet:
        those without a sample are counted as omissions. Raises `InvalidInput` naming row and field,
        also for ids that are not in the batch, and `LeaseLost`, after the others were written.
        """
        given = list(samples)
        if given:
            checked(given, self.now() + AHEAD)
        sample_of: dict[str, Sample] = {}
        for row, sample in enumerate(given):
            known = sample.video_id in self._items
            if not known or sample_of.setdefault(sample.video_id, sample) != sample:
                raise InvalidInput(
                    f"video_id in row {row} {'comes twice' if known else 'is not in the batch'}: "
                    + sample.video_id,
                    row=row,
                    field="video_id",
                    value=sample.video_id,
                    hint="`atlas.ingest.record_samples` writes samples of other videos and times",
                )
        open_items = [item for item in self if item.word is None and not item.sent]
        wanted = {item.key for item in open_items} if asked is None else set(asked)
        # all are looked up before anything is said of one
        items = {key: self._sampled(key) for key in sorted(wanted | sample_of.keys())}
        for key, item in items.items():
            if key in sample_of:
                item.sampled(sample_of[key])
            else:
                item.omitted()
        await self.flush()
        return len(sample_of)

    def _sampled(self, key: str) -> SampledItem[Any]:
        item = self._items.get(key)
        if isinstance(item, SampledItem) and not item.sent:
            return item
        raise InvalidInput(
            f"{key} is not a video of this batch whose counters are wanted", value=key
        )

    async def flush(self) -> None:
        """Send what was said so far. Raises `LeaseLost` for items that another worker has by now."""
        # two at once would send the same words, and the second would find the leases ended
        async with self._sending:
            said = [item for item in self if item.word is not None and not item.sent]
            lost = await self._send(said)
        if lost:
            raise LeaseLost(
                f"{len(lost)} of {len(said)} leases of {self._kind.queue.kind} were lost: "
                + ", ".join(lost[:5])
                + (" ..." if len(lost) > 5 else ""),
                keys=tuple(lost),
            )

    async def close(self) -> None:
        """Send what was said, release the rest. ``async with`` does it; repeating it does nothing."""
        beating, self._beating = self._beating, None
        if beating is None:
            return
        finishing = asyncio.create_task(self._finish(beating))
        try:
            await asyncio.shield(finishing)
        except asyncio.CancelledError:
            # shut down meanwhile: a report that is under way is not torn
            await asyncio.wait([finishing], timeout=_LAST_WORDS)
            if finishing.done() and (error := finishing.exception()) is not None:
                log.warning("last_report_failed", batch=repr(self), error=str(error))
            raise

    async def _finish(self, beating: asyncio.Task[None]) -> None:
        beating.cancel()
        await asyncio.wait([beating])
        self._work._open.discard(self)
        for item in self:
            if item.word is None and not item.sent:
                item.word = Unfinished(item.key, Ending.RELEASE)
        await self.flush()

    async def __aenter__(self) -> Batch[ItemT]:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            async with asyncio.timeout(None if error is None else _LAST_WORDS):
                await self.close()
        except (AtlasError, TimeoutError) as failure:
            if error is None:
                raise
            # what went wrong first is what the caller has to see
            error.add_note(f"the last report of {self!r} failed too: {failure}")

    async def _send(self, items: Sequence[ItemT]) -> list[str]:
        """Report these items; gives the keys of those whose lease is another's."""
        endings = [item.word for item in items if isinstance(item.word, Unfinished)]
        done = [item.word for item in items if not isinstance(item.word, Unfinished)]
        database, kind = self._work.database, self._kind

        @retry_when_locked
        async def write() -> set[str]:
            held: set[str] = set()
            # one statement needs no transaction around it
            both = bool(endings and done)
            async with database.transaction() if both else database.autocommit() as session:
                leases = Leases(session, kind.queue)
                if both:
                    # in one order, and not first these and then those
                    await leases.lock(self._token, _keys(kind.queue, (item.key for item in items)))
                if done:
                    held |= await kind.record(session, self._token, done)
                if endings:
                    held |= await leases.settle(self._token, endings)
            return held

        if not items:
            return []
        held = await with_partitions(database, write, lambda: samples_of(done))
        for item in items:
            item.sent = True
            item.lost = item.key not in held
        # of a piece of work that was dropped it does not matter that another has it
        return [
            item.key
            for item in items
            if item.lost
            and not (isinstance(item.word, Unfinished) and item.word.ending is Ending.RELEASE)
        ]

    async def _beat(self) -> None:
        """Renew the leases of all items of which nothing was sent."""
        while True:
            every = self._work.renew_every
            await asyncio.sleep(every if self.failing is None else min(every, _RENEW_AGAIN))
            item_of = {item.key: item for item in self if not item.sent}
            if not item_of:
                self.failing = None
                continue
            keys = _keys(self._kind.queue, item_of)
            try:
                async with (
                    asyncio.timeout(self._work.renew_every),
                    self._work.database.autocommit() as session,
                ):
                    held = await Leases(session, self._kind.queue).renew(self._token, keys)
            except Exception as error:  # whatever it is, leases are not renewed
                self.failing = (
                    error
                    if isinstance(error, AtlasError)
                    else DatabaseUnavailable(str(error) or "no answer")
                )
                log.warning("lease_renewal_failed", batch=repr(self), error=str(self.failing))
                continue
            self.failing = None
            if self._sending.locked():
                continue  # leases end just now
            item_of = {key: item for key, item in item_of.items() if not item.sent}
            for key, item in item_of.items():
                item.lost = key not in held
            if lost := [key for key, item in item_of.items() if item.lost]:
                log.warning("leases_lost", batch=repr(self), leases=len(lost), keys=lost[:20])


def _keys(queue: Queue, keys: Iterable[str | int]) -> list[str | int]:
    """Keys as the queue's table has them."""
    if queue is not HUNT:
        return list(map(str, keys))
    try:
        return list(map(int, keys))
    except ValueError as error:
        raise InvalidInput(
            "the id of a search term is a number", field="keys", hint="see `atlas work ls`"
        ) from error


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _kind(name: str) -> _Kind:
    if name in _KINDS:
        return _KINDS[name]
    raise InvalidInput(
        f"there is no such kind of work: {name!r:.80}",
        field="kind",
        value=name,
        hint="kinds are " + ", ".join(_KINDS),
    )
