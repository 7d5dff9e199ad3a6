"""Claimed work: kept by renewals, and reported with one word for each item."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from atlas.db.locks import retry_when_locked
from atlas.errors import AtlasError, DatabaseUnavailable, InvalidInput, LeaseLost
from atlas.events import bus_of
from atlas.ingest import AHEAD, with_partitions
from atlas.logging import get_logger
from atlas.repositories.hot.stats import checked
from atlas.repositories.leases import Ending, Head, Leases, Queue, Unfinished
from atlas.repositories.watchlist import TRACK
from atlas.scheduling.calendar import Calendar
from atlas.scheduling.items import Item, SampledItem, samples_of
from atlas.scheduling.kinds import Kind
from atlas.scheduling.policies import Policy
from atlas.types import Sample

if TYPE_CHECKING:
    from weakref import WeakSet

    from atlas.db import Database

log = get_logger(__name__)

ItemT = TypeVar("ItemT", bound=Item[Any])

#: Seconds after which a renewal that failed is tried again, at most.
_RENEW_AGAIN = 10.0
#: Seconds that a worker has for its last reports while it is being shut down.
_LAST_WORDS = 10.0
#: Seconds after which a renewal counts as unanswered.
_ANSWER_SECONDS = 30.0


class Claims(Protocol):
    """What a batch needs of whoever claims: the place to claim from, and what its batches share."""

    database: Database
    policy: Policy
    renew_every: float
    calendar: Calendar
    #: Batches whose leases are being renewed.
    open_batches: WeakSet[Batch[Any]]

    def check_heartbeats(self) -> None:
        """Raise `DatabaseUnavailable` while the leases of another batch cannot be renewed."""

    def head_of(self, queue: Queue) -> Head:
        """Where claims of the queue begin."""
        ...


class Batch(Generic[ItemT]):
    """Claimed work: iterate over its items. Made by `Work.claim` and `Work.stream`."""

    def __init__(self, claims: Claims, kind: Kind, limit: int) -> None:
        self.policy = claims.policy
        #: Why the last renewal failed; None: it did not.
        self.failing: AtlasError | None = None
        self._claims, self._kind, self._limit = claims, kind, limit
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
        self._claims.check_heartbeats()
        claiming = asyncio.create_task(self._claim())
        try:
            await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # nobody would know of what is claimed meanwhile, least of all one who is cancelled again
            await asyncio.wait([asyncio.create_task(self._give_back(claiming))])
            raise

    async def _give_back(self, claiming: asyncio.Task[None]) -> None:
        await asyncio.wait([claiming], timeout=_LAST_WORDS)
        if claiming.cancel() or claiming.cancelled() or claiming.exception() is not None:
            return
        try:
            await self.close()
        except AtlasError as error:
            log.warning("last_report_failed", batch=repr(self), error=str(error))

    async def _claim(self) -> None:
        self.failing = None

        async def claim(limit: int, before: datetime | None = None) -> list[tuple[Any, ...]]:
            async with self._claims.database.autocommit() as session:
                self._token, self._items, self._clock = uuid.uuid4(), {}, time.monotonic()
                return await Leases(session, self._kind.queue).claim(
                    limit, self._token, self._claims.head_of(self._kind.queue), before
                )

        if self._kind.queue is TRACK:
            rows = await self._claims.calendar.claim(self._limit, claim)
        else:
            rows = await claim(self._limit)
        for values in rows:
            row = self._kind.row(*values)
            self._claimed_at = row.claimed_at
            key = str(values[0])
            self._items[key] = cast(ItemT, self._kind.item(row, key, self))
        self._claims.open_batches.add(self)
        self._beating = asyncio.create_task(self._beat())

    async def record_samples(
        self, samples: Iterable[Sample], asked: Iterable[str] | None = None
    ) -> int:
        """Write samples, reschedule and end leases in one transaction; returns how many were written.

        ``asked`` are the ids that the API was asked for, by default all that are not reported yet:
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
            for item in said:
                item.sending = True
            try:
                lost = await self._send(said)
            finally:
                for item in said:
                    item.sending = False
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
        self._claims.open_batches.discard(self)
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
        """Report these items; returns the keys of those whose lease is another's."""
        endings = [item.word for item in items if isinstance(item.word, Unfinished)]
        done = [item.word for item in items if not isinstance(item.word, Unfinished)]
        database, kind = self._claims.database, self._kind
        events = [event for item in items if (event := kind.event(item)) is not None]

        @retry_when_locked
        async def write() -> set[str]:
            held: set[str] = set()
            # one statement needs no transaction around it
            both = bool(endings and done)
            several = both or bool(events)
            async with database.transaction() if several else database.autocommit() as session:
                leases = Leases(session, kind.queue)
                if both:
                    # in one order, and not first these and then those
                    await leases.lock(
                        self._token, keys_of(kind.queue, (item.key for item in items))
                    )
                if done:
                    held |= await kind.record(session, self._token, done)
                if endings:
                    held |= await leases.settle(self._token, endings)
                if counted := [event for event in events if event[1] in held]:
                    await bus_of(database).emit_many(counted, session=session)
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
            every = self._claims.renew_every
            await asyncio.sleep(every if self.failing is None else min(every, _RENEW_AGAIN))
            item_of = {item.key: item for item in self if not item.sent}
            if not item_of:
                self.failing = None
                continue
            keys = keys_of(self._kind.queue, item_of)
            try:
                async with (
                    asyncio.timeout(_ANSWER_SECONDS),
                    self._claims.database.autocommit() as session,
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


def keys_of(queue: Queue, keys: Iterable[str | int]) -> list[str | int]:
    """Keys as the queue's table has them."""
    if queue.key_type != "bigint":
        return list(map(str, keys))
    try:
        return list(map(int, keys))
    except ValueError as error:
        raise InvalidInput(
            "the id of a search term is a number", field="keys", hint="see `atlas work ls`"
        ) from error
