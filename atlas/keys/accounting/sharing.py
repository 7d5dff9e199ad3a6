"""One thread of a process that shares what is known of keys with others, through PostgreSQL.

It reads the small shared set at most once a second, leases blocks of units, settles them, and writes what
was learnt. While the database is away the process goes on from memory; what it could not write is written
later: rests merge and totals grow, so the backlog is bounded and may be written twice.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING

from atlas.config import get_settings
from atlas.errors import AtlasError, Unavailable
from atlas.keys.accounting.accounts import Accounts
from atlas.keys.accounting.blocks import Claim
from atlas.keys.breaker import LONGEST, OPEN_FOR, PROBE_SECONDS
from atlas.logging import get_logger

# at first use: they import SQLAlchemy, which whoever has no database need not
if TYPE_CHECKING:
    from atlas.db import Database
    from atlas.db.clock import Session
    from atlas.events import EventBus
    from atlas.repositories.keys import Grant, KeyLedger

__all__ = ["Sharing", "default_accounts"]

#: Seconds between two readings of the shared set.
REFRESH_SECONDS = 1.0
#: Seconds without a request after which a process reads less often.
QUIET_AFTER, QUIET_SECONDS = 60.0, 15.0
#: Seconds that one step may take before the database counts as away, and that a request waits for it.
STEP_TIMEOUT = 5.0
#: Seconds between attempts while the database is away.
RETRY_SECONDS = 2.0
#: Seconds for which the first requests of a process wait for a database that cannot be reached, and between
#: attempts: often both are started at once, and without it nothing is known of what rests.
START_PATIENCE, START_RETRY = 4.0, 0.25

log = get_logger(__name__)


class Sharing:
    """Joins ``accounts`` with those of other processes. `start` runs it in a thread; simulations call `step`.

    ``at`` replaces the time of the database's clock; ``bus`` is the one whose handlers are called.
    """

    def __init__(
        self,
        accounts: Accounts,
        database: Database,
        *,
        at: Callable[[], datetime] | None = None,
        bus: EventBus | None = None,
    ) -> None:
        self.accounts = accounts
        self.holder = uuid.uuid4().hex[:16]
        #: Whether the database does not answer; nobody waits for it then.
        self.away = False
        self._database = database
        self._at = at
        self._events = bus
        self._began_at = self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._pruned = False
        self._warned = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._one_step = asyncio.Lock()
        self._stop = False
        accounts.sharing = self
        accounts.blocks.leased = True
        accounts.wake = accounts.blocks.wake = self.wake

    # --- from any thread

    def start(self) -> None:
        """Begin, unless it has begun. The thread ends with the process, after a last settlement."""
        if self._thread is None and not self._stop:
            self._began_at = time.monotonic()
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._run, args=(loop,), name="atlas-keys", daemon=True
            )
            self._thread.start()
            atexit.register(self.close)

    def wake(self) -> None:
        """Write and read what is due now."""
        self.start()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._wake.set)

    def close(self, timeout: float = STEP_TIMEOUT) -> None:
        """Settle everything, return what is leased, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.close)
        self._stop = True
        self.wake()
        thread.join(timeout)

    def is_fresh(self) -> bool:
        """Whether a request may rely on what is known, without `refresh`."""
        return self.away or time.monotonic() - self._read_at < 2 * REFRESH_SECONDS

    async def refresh(self) -> None:
        """Wait until the shared set was read, if the database answers in time."""
        await self._in_thread(self._read)

    async def claim_probe(self, endpoint: str) -> bool:
        """Whether this process is the one that may try the endpoint now."""
        if self.away:
            return self.accounts.breakers.claim_probe(endpoint)

        async def claim() -> bool:
            async with self._database.autocommit() as session:
                ledger = _ledger(session)
                return await ledger.claim_probe(endpoint, PROBE_SECONDS, self._now())

        return await self._in_thread(claim) or False

    async def claim_notice(self, name: str, until: datetime) -> bool:
        """Whether this process sends the notice; True if that cannot be determined."""

        async def claim() -> bool:
            async with self._database.autocommit() as session:
                return await _ledger(session).claim_notice(name, until, self._now())

        answer = await self._in_thread(claim)
        return True if answer is None else answer

    async def emit(self, event_type: str, pool: str, facts: Mapping[str, object]) -> None:
        """Record an event of a pool; bounded by what an emit may take."""
        await self._bus().emit(event_type, pool, facts)

    def emit_soon(self, event_type: str, pool: str, facts: Mapping[str, object]) -> None:
        """Record an event of a pool in the background: a request does not wait for it."""
        self._bus().emit_soon(event_type, pool, facts)

    def _bus(self) -> EventBus:
        from atlas.events import bus_of

        return self._events or bus_of(self._database)

    async def flush(self) -> None:
        """Write everything now: this process is about to end."""
        await self._in_thread(lambda: self.step(everything=True))

    async def _in_thread(self, work: Callable[[], object]) -> bool | None:
        """Run ``work`` beside the steps and wait for it; None if it fails or takes too long."""
        loop = self._loop
        if self._thread is None or loop is None or loop.is_closed():
            return None
        future: Future[bool | None] = asyncio.run_coroutine_threadsafe(self._try(work), loop)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.wrap_future(future), STEP_TIMEOUT)
        return None

    async def _try(self, work: Callable[[], object]) -> bool | None:
        try:
            result = work()
            value = await result if asyncio.iscoroutine(result) else result
            return bool(value) if value is not None else None
        except (AtlasError, OSError):
            return None

    # --- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._steps())
        except Exception as error:  # a fault of this module must not end anybody's requests
            log.error("keys_sharing_ended", error=type(error).__name__)
        finally:
            self.away = True
            self.accounts.blocks.release_all()

    async def _steps(self) -> None:
        try:
            while not self._stop:
                self._wake.clear()
                await self.step()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._pause())
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: no new connection
                await self.step(everything=True)
        finally:
            await self._database.close()

    def _pause(self) -> float:
        if self.away:
            return RETRY_SECONDS
        quiet = time.monotonic() - self.accounts.blocks.busy_since() > QUIET_AFTER
        return QUIET_SECONDS if quiet else REFRESH_SECONDS

    async def _read(self) -> None:
        async with self._reading:  # for all that wait
            while not self.is_fresh():
                await self.step()
                if not self.is_fresh():
                    await asyncio.sleep(START_RETRY)

    async def step(self, *, everything: bool = False) -> None:
        """Write and read what is due, and the shared set if a second has passed. Never raises."""
        async with self._one_step:
            await self._step(everything)

    async def _step(self, everything: bool) -> None:
        rests, refusals = self.accounts.unshare()
        circuits = dict(self.accounts.breakers.unshared)
        snapshot = None
        try:
            async with asyncio.timeout(STEP_TIMEOUT), self._database.autocommit() as session:
                ledger = _ledger(session)
                if rests:
                    await ledger.rest(rests)
                claims = self.accounts.blocks.due(everything=everything)
                grants = [await self._settle(ledger, claim) for claim in claims]
                for project, bucket in refusals:
                    limit = self.accounts.buckets[bucket].limit
                    await ledger.refused(project, bucket, self.accounts.today(), limit)
                for endpoint, opens in circuits.items():
                    if opens:
                        await ledger.open_breaker(endpoint, OPEN_FOR, LONGEST, self._now())
                    else:
                        await ledger.close_breaker(endpoint)
                is_due = time.monotonic() - self._read_at >= REFRESH_SECONDS
                if everything or rests or circuits or is_due or self._at:
                    snapshot = await ledger.snapshot(self._now())
                if not self._pruned:
                    await ledger.prune(at=self._now())
                    self._pruned = True
        except (AtlasError, OSError) as error:  # TimeoutError is an OSError
            self.accounts.reshare(rests, refusals)
            self._lose(error)
            return
        # behind a pooler all of it was one transaction: only now it is sure
        self._find_again()
        for endpoint, opens in circuits.items():
            self.accounts.breakers.shared(endpoint, opens)
        if snapshot is not None:
            self.accounts.learn(snapshot)
            self._read_at = time.monotonic()
        for claim, (grant, asked_at) in zip(claims, grants, strict=True):
            block = claim.block
            self.accounts.learn_usage(block.project, block.bucket, grant.usage)
            self.accounts.blocks.granted(claim, grant.units, asked_at)

    async def _settle(self, ledger: KeyLedger, claim: Claim) -> tuple[Grant, float]:
        block = claim.block
        bucket = self.accounts.buckets.get(block.bucket)
        asked_at = time.monotonic()
        grant = await ledger.settle(
            block.project,
            block.bucket,
            block.day,
            holder=self.holder,
            total=claim.total,
            settled=claim.settled,
            in_flight=claim.in_flight,
            need=claim.need,
            wanted=claim.wanted,
            limit=bucket.limit if bucket is not None else 1,
            at=self._now(),
        )
        return grant, asked_at

    def _now(self) -> datetime | None:
        return self._at() if self._at is not None else None

    def _lose(self, error: Exception) -> None:
        if isinstance(error, Unavailable | OSError) and self._is_beginning():
            return
        self.away = True
        self.accounts.blocks.release_all()
        if not self._warned:
            self._warned = True
            hint = getattr(error, "hint", None)
            log.warning("keys_not_shared", error=type(error).__name__, hint=hint)

    def _is_beginning(self) -> bool:
        return not self._read_at and time.monotonic() - self._began_at < START_PATIENCE

    def _find_again(self) -> None:
        if self.away:
            self.away = self._warned = False
            log.info("keys_shared_again")
        self.accounts.blocks.leased = True


def _ledger(session: Session) -> KeyLedger:
    from atlas.repositories.keys import KeyLedger

    return KeyLedger(session)


_default_lock = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_default_lock=threading.Lock()))
#: What a forked child inherited: its connections are the parent's, and must not be closed here.
_of_the_parent: list[object] = []
_default: tuple[object, int, Accounts, Sharing | None] | None = None


def forget_default() -> None:
    """End what the rings of this process share; the next use begins anew."""
    global _default
    with _default_lock:
        old, _default = _default, None
    if old is not None and old[3] is not None:
        old[3].close()


def default_accounts() -> Accounts:
    """What this process knows of keys; shared with others where DATABASE_URL says by which database.

    Begins anew when the settings were read anew, and in a forked child.
    """
    global _default
    settings, pid = get_settings(), os.getpid()
    with _default_lock:
        if _default is not None and _default[0] is settings and _default[1] == pid:
            return _default[2]
        old = _default
        accounts, sharing = Accounts(), None
        if settings.database_url is not None:
            from atlas.db import Database
            from atlas.events import events

            url = settings.database_url.get_secret_value()
            sharing = Sharing(accounts, Database(url, pool_size=1, max_overflow=2), bus=events)
        _default = (settings, pid, accounts, sharing)
    if old is not None and old[3] is not None:
        if old[1] == pid:
            old[3].close()
        else:
            _of_the_parent.append(old)
    return accounts
