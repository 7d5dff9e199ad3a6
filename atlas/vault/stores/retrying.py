"""Calls of a remote store: each with an end, repeated while it may help. The one place of both.

The clients' own repeats are switched off where they let it (gcsfs) and lie inside the end where not
(huggingface_hub repeats listings, uploads and ranged reads, and obeys any ``Retry-After``).
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from atlas.errors import VaultUnavailable
from atlas.forks import renew_in_child
from atlas.retry import retry_unavailable
from atlas.types import ObjectInfo, ObjectStore

T = TypeVar("T")

#: Seconds after which a call that moves little counts as unanswered, and a read of unknown size.
CALL_SECONDS, READ_SECONDS = 120.0, 600.0
#: Bytes a second that a write may count on, at least.
SLOWEST = 100_000
#: Tries of one call, and the seconds after the first within which the last may begin.
ATTEMPTS, RETRY_SECONDS = 4, 60.0
#: Calls of a store at the same time; more wait for their turn.
AT_ONCE = 8


class PatientStore:
    """Another store, whose calls end and are repeated while it is `Unavailable`.

    All of them may be: a write that creates meets its own object as `ObjectExists` if the store could not
    settle what became of it, and a swap whose content is there after an unclear answer has
    succeeded. A call that did not end in time is left to its thread. What it may still write has been
    reported to the caller as unclear.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._take_turns_anew()
        renew_in_child(self, PatientStore._take_turns_anew)

    def _take_turns_anew(self) -> None:
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Any:
        # what a provider has beside the protocol
        return getattr(self._store, name)

    @property
    def identity(self) -> str:
        return self._store.identity

    @property
    def batch(self) -> int:
        return self._store.batch

    def uri(self, key: str) -> str:
        return self._store.uri(key)

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        size = 0
        for _, path in items:
            with contextlib.suppress(FileNotFoundError):  # the store itself reports it
                size += path.stat().st_size
        self._patiently(lambda: self._store.put_files(items), _time_for(size))

    def put_bytes(self, key: str, data: bytes, *, overwrite: bool = True) -> None:
        self._patiently(lambda: self._store.put_bytes(key, data, overwrite=overwrite))

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        # while the interpreter shuts down no thread pool can be created
        if self._store.batch > 1 or len(items) < 2 or _ending_program():
            self._put_together(items)
            return
        # each for itself, several at a time: what went through is not sent again for another's sake
        with ThreadPoolExecutor(AT_ONCE, "atlas-vault-put") as pool:
            puts = [pool.submit(self._put_together, [item]) for item in items]
            try:
                for put in as_completed(puts):
                    put.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _put_together(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        begins = [source.tell() for _, source in items]
        ends = [source.seek(0, io.SEEK_END) for _, source in items]

        def put() -> None:
            for (_, source), begin in zip(items, begins, strict=True):
                source.seek(begin)
            self._store.put_many(items)

        self._patiently(put, _time_for(sum(ends) - sum(begins)))

    def get_bytes(self, key: str) -> bytes | None:
        return self._patiently(lambda: self._store.get_bytes(key), READ_SECONDS)

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        source = self._patiently(lambda: self._store.open(key, size))
        return None if source is None else cast(BinaryIO, _PatientReader(source, self._patiently))

    def stat(self, key: str) -> ObjectInfo | None:
        return self._patiently(lambda: self._store.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # listed eagerly: a failed page cannot be requested again
        return iter(self._patiently(lambda: [*self._store.list(prefix)], READ_SECONDS))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        self._patiently(lambda: self._store.delete(wanted))

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        unclear = False

        def swap() -> bool:
            nonlocal unclear
            try:
                swapped = self._store.compare_and_swap(key, expected, new)
            except VaultUnavailable:
                unclear = True
                raise
            # an earlier try may have been the one that succeeded
            return swapped or (unclear and self._store.get_bytes(key) == new)

        return self._patiently(swap)

    def _patiently(self, call: Callable[[], T], seconds: float | None = None) -> T:
        attempt = retry_unavailable(ATTEMPTS, RETRY_SECONDS)
        return attempt(lambda: self._ending(call, seconds or CALL_SECONDS))()

    def _ending(self, call: Callable[[], T], seconds: float) -> T:
        """Run the call in a thread of its own, and give it up after ``seconds``.

        Each call has its thread, because a pool's are waited for when the program ends. A call that is given
        up gives back its turn: some clients wait for an answer for ever.
        """
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(call())
            except BaseException as error:
                result.set_exception(error)

        until = time.monotonic() + seconds
        unanswered = VaultUnavailable(f"{self.identity}: no answer in {seconds:.0f} seconds")
        if not self._turns.acquire(timeout=seconds):
            raise unanswered
        try:
            threading.Thread(target=run, name="atlas-vault", daemon=True).start()
            return result.result(until - time.monotonic())
        except TimeoutError as error:
            if result.done():
                raise  # the call's own
            raise unanswered from error
        finally:
            self._turns.release()


def _ending_program() -> bool:
    return not threading.main_thread().is_alive()


def _time_for(size: int) -> float:
    """Seconds that a write of so many bytes may take."""
    return CALL_SECONDS + size / SLOWEST


class _PatientReader(io.RawIOBase):
    """A reader whose reads end and are repeated: one that failed has not moved."""

    def __init__(self, source: BinaryIO, patiently: Callable[[Callable[[], bytes]], bytes]) -> None:
        super().__init__()
        self._source, self._patiently = source, patiently

    def read(self, size: int | None = -1) -> bytes:
        return self._patiently(lambda: self._source.read(-1 if size is None else size))

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        with contextlib.suppress(Exception):  # nothing is lost by a reader that does not close
            self._source.close()
        super().close()
