"""Units of quota that this process may spend without asking: blocks leased from the database.

A block belongs to one project, bucket and Pacific day. `take` is called for each request and touches
nothing but memory; a sharing (see `atlas.keys.accounting.sharing`) leases and settles. Without one, or
while the database is away, every unit is granted and counted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date

__all__ = ["Block", "Blocks", "Claim"]

#: Seconds for which a block is used; below the lease's 60, for clocks and slow answers.
USABLE_SECONDS = 45.0
#: A holder whose block is not used for so many seconds returns it.
IDLE_SECONDS = 10.0
#: Seconds between settlements of a block that needs no units.
SETTLE_SECONDS = 10.0


@dataclass(slots=True)
class Block:
    """``taken`` grows with every unit taken, ``spent`` with every unit used; ``settled`` was acknowledged."""

    project: str
    bucket: str
    day: date
    available: int = 0
    in_flight: int = 0
    taken: int = 0
    spent: int = 0
    settled: int = 0
    need: int = 0
    usable_until: float = 0.0
    used_at: float = 0.0
    settled_at: float = 0.0
    waiting: deque[_Waiting] = field(default_factory=deque)


#: A request that waits for units: its loop, what it awaits, how many.
_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Block | None]", int]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be written to the database of a block, as of one moment."""

    block: Block
    total: int
    settled: int
    in_flight: int
    taken: int
    need: int
    wanted: int


def _order(block: Block) -> tuple[str, str, date]:
    return block.project, block.bucket, block.day


def _claim(block: Block, *, last: bool) -> Claim:
    wanted = sum(units for _, _, units in block.waiting)
    need = 0 if last else block.need
    return Claim(block, block.spent, block.settled, block.in_flight, block.taken, need, wanted)


class Blocks:
    """Thread-safe. ``today`` is the Pacific day; ``wake`` is called when units are requested."""

    def __init__(self, today: Callable[[], date]) -> None:
        self._today = today
        self._lock = threading.Lock()
        self._current: dict[tuple[str, str], Block] = {}
        self._past: list[Block] = []
        #: Whether units must be leased; False without a database, or while it is away.
        self.leased = False
        self.wake: Callable[[], None] = lambda: None

    def take(self, project: str, bucket: str, units: int) -> Block | None:
        """Take units for a request that is about to be made; None: wait for them (`wait`)."""
        with self._lock:
            block = self._block(project, bucket)
            if self._take(block, units):
                return block
        return None

    async def wait(self, project: str, bucket: str, units: int) -> Block | None:
        """Take units as soon as some are leased; None when others hold the last ones, or none are left."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Block | None] = loop.create_future()
        with self._lock:
            block = self._block(project, bucket)
            if self._take(block, units):
                return block
            block.waiting.append((loop, future, units))
            self._ask(block, units)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and (granted := future.result()):
                self.give_back(granted, units, spent=False)
            raise

    def give_back(self, block: Block, units: int, *, spent: bool) -> None:
        """The request has ended; ``spent``: the API counted it."""
        with self._lock:
            block.in_flight -= units
            if spent:
                block.spent += units
            elif self.leased:
                block.available += units

    def charge(self, project: str, bucket: str, units: int) -> None:
        """Count units that were spent without having been taken."""
        with self._lock:
            block = self._block(project, bucket)
            block.spent += units
            block.taken += units
            block.used_at = time.monotonic()

    def unsettled(self, project: str, bucket: str) -> int:
        """Units spent today that the database does not know of."""
        block = self._current.get((project, bucket))
        return block.spent - block.settled if block is not None else 0

    def spent(self, project: str, bucket: str) -> int:
        """Units spent today by this process."""
        block = self._current.get((project, bucket))
        return block.spent if block is not None and block.day == self._today() else 0

    def drop(self, project: str, bucket: str) -> None:
        """The API refused: whoever waits for units of the bucket looks elsewhere."""
        with self._lock:
            block = self._current.get((project, bucket))
            if block is not None:
                block.available = block.need = 0
                self._resolve(block, None)

    def due(self, *, everything: bool = False) -> list[Claim]:
        """What to write to the database now: blocks requested, about to run out, unsettled, or idle."""
        now, today = time.monotonic(), self._today()
        with self._lock:
            for key, block in list(self._current.items()):
                if block.day != today:
                    self._retire(key, block)
            self._past = [one for one in self._past if one.in_flight or one.spent > one.settled]
            # in one order, because behind a pooler they are settled in one transaction
            blocks = sorted([*self._current.values(), *self._past], key=_order)
            return [
                _claim(one, last=everything)
                for one in blocks
                if everything or self._is_due(one, now)
            ]

    def granted(self, claim: Claim, units: int, asked_at: float) -> None:
        """The database answered: ``units`` new ones since the claim."""
        with self._lock:
            block = claim.block
            block.settled = max(block.settled, claim.total)
            block.settled_at = time.monotonic()
            block.available = max(0, units - (block.taken - claim.taken))
            block.usable_until = asked_at + USABLE_SECONDS
            if claim.need == 0:
                return
            block.need = 0
            self._hand_out(block)
            if block.waiting and units == 0:
                self._resolve(block, None)  # others hold the last units
            elif block.waiting:
                self._ask(block, block.waiting[0][2])

    def release_all(self) -> None:
        """The database is away: nobody waits for it, and units are counted in memory."""
        with self._lock:
            self.leased = False
            for block in self._current.values():
                block.need = 0
                self._hand_out(block)

    def busy_since(self) -> float:
        """When a unit was last taken, by the monotonic clock."""
        return max((block.used_at for block in self._current.values()), default=0.0)

    def _block(self, project: str, bucket: str) -> Block:
        key, today = (project, bucket), self._today()
        block = self._current.get(key)
        if block is not None and block.day != today:
            self._retire(key, block)
            block = None
        if block is None:
            block = self._current[key] = Block(project, bucket, today)
        return block

    def _retire(self, key: tuple[str, str], block: Block) -> None:
        self._resolve(block, None)
        block.available = block.need = 0
        self._past.append(self._current.pop(key))

    def _take(self, block: Block, units: int) -> bool:
        now = block.used_at = time.monotonic()
        if self.leased:
            if block.waiting or block.available < units or now >= block.usable_until:
                return False
            block.available -= units
            if block.available < units and not block.need:
                self._ask(block, units)  # before the next one has to wait
        block.in_flight += units
        block.taken += units
        return True

    def _ask(self, block: Block, units: int) -> None:
        asked, block.need = block.need, max(block.need, units)
        if not asked:
            self.wake()

    def _hand_out(self, block: Block) -> None:
        """Give waiting requests their units, as many as there are."""
        served: list[_Waiting] = []
        while block.waiting and (not self.leased or block.available >= block.waiting[0][2]):
            waiting = block.waiting.popleft()
            if waiting[1].cancelled():
                continue
            if self.leased:
                block.available -= waiting[2]
            block.in_flight += waiting[2]
            block.taken += waiting[2]
            served.append(waiting)
        self._answer(served, block)

    def _resolve(self, block: Block, answer: None) -> None:
        """Send waiting requests away."""
        self._answer(list(block.waiting), answer)
        block.waiting.clear()

    def _answer(self, waiting: list[_Waiting], block: Block | None) -> None:
        """Wake each loop once: waking a loop costs more than a request does."""
        by_loop: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        for one in waiting:
            by_loop.setdefault(one[0], []).append(one)
        for loop, ours in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._resolve_waiting, ours, block)

    def _resolve_waiting(self, waiting: list[_Waiting], block: Block | None) -> None:
        for _, future, units in waiting:
            if not future.done():
                future.set_result(block)
            elif block is not None:  # nobody waits any more
                self.give_back(block, units, spent=False)

    def _is_due(self, block: Block, now: float) -> bool:
        if block.need:
            return True
        holds = block.available > 0 or block.in_flight > 0
        if holds and block.usable_until - now < USABLE_SECONDS / 2:
            return True
        if block.available and now - block.used_at > IDLE_SECONDS:
            return True
        return block.spent > block.settled and now - block.settled_at > SETTLE_SECONDS
