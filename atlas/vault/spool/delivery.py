"""When what waits on this machine goes to the store: at once, or many in one write, by a thread beside."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from atlas.errors import VaultError, VaultUnavailable
from atlas.logging import get_logger
from atlas.types import ObjectStore
from atlas.vault import files
from atlas.vault.spool.metrics import Spool

log = get_logger(__name__)

#: Seconds before what failed is tried again: doubled each time, from the first to the second.
_PAUSE_SECONDS = (5.0, 300.0)
#: Seconds that the end of the program waits for a last delivery.
_EXIT_SECONDS = 10.0
#: Seconds that `flush` waits for another process that delivers the same spool.
_FLUSH_SECONDS = 60.0
#: Share of a repository's commits that deliveries leave to the archive and to direct writes.
_SPARED = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """``seconds``: how long something may wait for company; 0: nothing waits while the store answers.
    ``gap``: seconds at least between two deliveries of this machine. ``batch``: files that make one full.
    """

    seconds: float = 0.0
    gap: float = 0.0
    batch: int = 50

    @staticmethod
    def of_commits(seconds: float, commits_an_hour: int) -> Pace:
        """The pace by which deliveries, of two commits at most, leave some of the commits to others."""
        gap = 2 * 3600 / ((1 - _SPARED) * commits_an_hour) if seconds else 0.0
        return Pace(max(seconds, gap), gap)


class Outbox:
    """Sends what the spool and the documents of one vault hold, for all threads of this process.

    A call that finds nothing waiting, and the last delivery long enough ago, goes to the store itself;
    others leave their bytes on the disk to a thread, which is started when it is needed and ends when nothing
    waits. At the end of the program it has a few seconds; what is left is for the next process.
    """

    def __init__(self, store: ObjectStore, spool: Spool, pace: Pace) -> None:
        self._store, self._spool, self._pace = store, spool, pace
        self._last = spool.folder / "last-delivery"
        self._lock = spool.folder / "delivery.lock"
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = self._at_exit = False
        self._waiting = 0
        self._pause = 0.0
        self._resume = 0.0
        self._failed: VaultError | None = None
        if self._left():
            self._wake(1)  # by a process that died, or is still at it

    def may_go(self, *, in_company: bool = False) -> bool:
        """Whether a call may write to the store itself; ``in_company``: with many files in one write."""
        if time.monotonic() < self._resume:
            return False
        return in_company or (not self._waiting and self._since_last() >= self._pace.seconds)

    def went(self) -> None:
        """A write was made: the next ones may wait for company."""
        self._pause = 0.0
        if self._pace.seconds:
            with files.raised_as_vault_error(str(self._last)):
                files.make_folder(self._last.parent)
                self._last.touch(mode=0o600)

    def keep(self, added: int, error: VaultUnavailable | None = None) -> None:
        """``added`` files were left on the disk; ``error`` says why the store did not take them.

        Raises what an earlier delivery failed with, if that needs a hand.
        """
        if error is not None:
            self._hold(error)
        self._wake(added)
        failed, self._failed = self._failed, None
        if failed is not None:
            failed.add_note(f"what was given is safe in {self._spool.folder}, and delivered later")
            raise failed

    def send(self, names: Sequence[str]) -> None:
        """Put files that were just spooled into the store, or leave them for a delivery."""
        unavailable = None
        if self.may_go():
            try:
                self._spool.put(self._store, names)
                self.went()
                return
            except VaultUnavailable as error:
                unavailable = error
            except VaultError as error:
                error.add_note(f"the rows are safe in {self._spool.folder}, and delivered later")
                self._wake(len(names))
                raise
        self.keep(len(names), unavailable)

    def flush(self) -> int:
        """Deliver everything that waits; returns the number of files. Raises `VaultError`."""
        delivered = 0
        with self._delivering(_FLUSH_SECONDS):
            while documents := self._spool.documents.deliver(self._store, self._pace.batch):
                delivered += documents
            delivered += self._spool.deliver(self._store)
        with self._changed:
            # what is added from here on wakes the thread
            self._waiting, self._failed = self._left(), None
            self._pause = self._resume = 0.0
        if delivered:
            self.went()
        return delivered

    def stop(self) -> None:
        """End the thread after what it is at; the outbox delivers nothing by itself any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _since_last(self) -> float:
        try:
            since = time.time() - self._last.stat().st_mtime
        except OSError:
            return float("inf")
        return since if since >= 0 else float("inf")  # the clock was set back

    def _left(self) -> int:
        return self._spool.pending().count

    def _wake(self, added: int) -> None:
        with self._changed:
            self._waiting += added
            running = self._thread is not None and self._thread.is_alive()
            if not running and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="atlas-outbox", daemon=True)
                self._thread.start()
                if not self._at_exit:
                    self._at_exit = True
                    _deliver_at_exit(self)
            self._changed.notify_all()

    def _hold(self, error: VaultError) -> None:
        """Leave the store alone for a while."""
        first, most = _PAUSE_SECONDS
        self._pause = min(max(first, 2 * self._pause), most)
        wait = max(self._pause, getattr(error, "retry_after", None) or 0.0)
        self._resume = time.monotonic() + wait
        waiting = self._spool.pending()
        log.warning(
            "spool_waits",
            vault=self._store.identity,
            files=waiting.count,
            bytes=waiting.bytes,
            oldest=None if waiting.oldest is None else waiting.oldest.isoformat(),
            wait_seconds=round(wait),
            error=type(error).__name__,
        )

    def _due_in(self) -> float:
        full = self._waiting >= self._pace.batch
        pace = self._pace.gap if full else self._pace.seconds
        return max(self._resume - time.monotonic(), pace - self._since_last())

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (wait := self._due_in()) > 0:
                    self._changed.wait(wait)
                if self._stopped:
                    self._thread = None
                    return
            try:
                self._round()
            except VaultUnavailable as error:
                self._hold(error)
            except VaultError as error:
                log.error("spool_needs_a_hand", vault=self._store.identity, error=str(error))
                self._failed = error
                self._hold(error)
            except Exception:
                # a mistake in a program: what waits is for the next process
                log.exception("outbox_failed", vault=self._store.identity)
                self._stopped = True
            with self._changed:
                if not self._waiting:
                    self._thread = None
                    return

    def _round(self) -> None:
        """One delivery: a write of documents and one of rows at most."""
        with self._delivering(0):
            self._spool.documents.deliver(self._store, self._pace.batch)
            self._spool.deliver(self._store, self._pace.batch)
            self.went()
        with self._changed:
            # what is added from here on wakes the thread again
            self._waiting = self._left()

    @contextlib.contextmanager
    def _delivering(self, seconds: float) -> Iterator[None]:
        """One process at a time: a document that was overtaken must not arrive after its successor."""
        with files.raised_as_vault_error(str(self._lock)):
            files.make_folder(self._lock.parent)
        with files.locked(self._lock, seconds):
            yield

    def _last_words(self) -> None:
        if self._stopped or not self._waiting:
            return
        thread = threading.Thread(target=self._try_to_flush, name="atlas-outbox-exit", daemon=True)
        thread.start()
        thread.join(_EXIT_SECONDS)
        if left := self._left():
            log.warning("spool_left_at_exit", vault=self._store.identity, files=left)

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except Exception as error:
            log.warning("flush_at_exit_failed", error=type(error).__name__)


def _deliver_at_exit(outbox: Outbox) -> None:
    reference = weakref.ref(outbox)

    def deliver() -> None:
        found = reference()
        if found is not None:
            found._last_words()

    atexit.register(deliver)
