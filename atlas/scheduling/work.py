"""The five kinds of work, claimed in batches: the typed API beside `MaiaDAO`."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Literal, overload

from atlas.db import db
from atlas.errors import DatabaseUnavailable, InvalidInput
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.repositories.leases import Head, LeaseCounts, Leases, Quarantined, Queue
from atlas.repositories.videos import COLLECTION, Videos
from atlas.scheduling.batch import Batch, keys_of
from atlas.scheduling.calendar import Calendar
from atlas.scheduling.items import CollectItem, RetrackItem, SearchItem, TrackItem
from atlas.scheduling.kinds import KINDS, Kind
from atlas.scheduling.policies import AgePolicy, Policy

if TYPE_CHECKING:
    from atlas.db import Database

__all__ = ["Batch", "Work"]

log = get_logger(__name__)

Collected = Literal["transcript", "visuals"]

#: Seconds between renewals: three may fail before a lease of ten minutes runs out.
RENEW_EVERY = 180.0
#: Seconds that `Work.stream` waits after an empty claim, at first and at most.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0


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
        self.open_batches: weakref.WeakSet[Batch[Any]] = weakref.WeakSet()
        self._heads: dict[Queue, Head] = {}
        self.calendar = Calendar(self.database)

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
        transaction, and unreported items are released, at the cost of no attempt; after an error
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
                rows = await Videos(session).requeue(map(str, keys))
            else:
                wanted = None if keys is None else keys_of(queue, keys)
                rows = await Leases(session, queue).requeue(wanted)
            if rows:
                bus = bus_of(self.database)
                await bus.emit("work.requeued", kind, {"rows": rows}, session=session)
        return rows

    async def quarantined(self, kind: str, limit: int = 100) -> list[Quarantined]:
        """Work that nobody is given any more, with its last error."""
        async with self.database.transaction(read_only=True) as session:
            return await Leases(session, _kind(kind).queue).quarantined(limit)

    async def counts(self) -> list[LeaseCounts]:
        """How much of each kind is leased, waits after a failure, is in quarantine."""
        async with self.database.transaction(read_only=True) as session:
            return [await Leases(session, kind.queue).counts() for kind in KINDS.values()]

    def head_of(self, queue: Queue) -> Head:
        """Where this process's claims of the queue begin."""
        return self._heads.setdefault(queue, Head())

    def check_heartbeats(self) -> None:
        """Raise `DatabaseUnavailable` while the leases of another batch cannot be renewed."""
        for batch in self.open_batches:
            if batch.failing is not None:
                raise DatabaseUnavailable(
                    f"the leases of {batch!r} could not be renewed, so nothing more is claimed",
                    hint="wait until the database answers; what is held runs out and comes back",
                ) from batch.failing


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


def _kind(name: str) -> Kind:
    if name in KINDS:
        return KINDS[name]
    raise InvalidInput(
        f"there is no such kind of work: {name!r:.80}",
        field="kind",
        value=name,
        hint="kinds are " + ", ".join(KINDS),
    )
