"""A store that fails by a seed: which call fails, and how, follows from seed and number of the call alone."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from atlas.errors import VaultUnavailable
from atlas.logging import get_logger
from atlas.types import ObjectInfo, ObjectStore

log = get_logger("atlas.tests.faulty_store")

T = TypeVar("T")
#: Objects to be written: key and content.
Items = Sequence[tuple[str, bytes]]


class Fault(StrEnum):
    """What may happen to a call. All but the last four raise `VaultUnavailable` to the caller."""

    REFUSE = "refuse"  # nothing is done
    HANG = "hang"  # nothing is done, and it takes its time to say so
    LOSE_ANSWER = "lose_answer"  # done, but told as failed
    LATE = "late"  # told as failed, and done a moment later
    HALF = (
        "half"  # the name is there with half the content; of a deletion, half the objects are gone
    )
    BREAK_OFF = "break_off"  # opened and listed, but not to the end
    KILL_BEFORE = "kill_before"  # the process dies, nothing is done
    KILL_AFTER = "kill_after"  # it is done, then the process dies
    FLIP = "flip"  # written with one bit changed, told as done
    MISREAD = "misread"  # read with one bit changed, though it is right in the store
    STALE = "stale"  # an old answer: the newest objects are missing, deleted ones are there
    SLOW = "slow"  # right, but late


_ANY = (Fault.REFUSE, Fault.HANG, Fault.SLOW, Fault.KILL_BEFORE, Fault.KILL_AFTER)
_WRITE = (*_ANY, Fault.LOSE_ANSWER, Fault.LATE)
#: Which faults each method may suffer.
APPLICABLE: dict[str, tuple[Fault, ...]] = {
    "put_files": (*_WRITE, Fault.HALF, Fault.FLIP),
    "put_bytes": _WRITE,
    "put_many": (*_WRITE, Fault.HALF, Fault.FLIP),
    "delete": (*_WRITE, Fault.HALF),
    "compare_and_swap": _WRITE,
    "get_bytes": _ANY,
    "open": (*_ANY, Fault.BREAK_OFF, Fault.MISREAD),
    "stat": (*_ANY, Fault.STALE),
    "list": (*_ANY, Fault.STALE, Fault.BREAK_OFF),
}

#: Faults after which the store holds what nobody wrote; only what is verified may be exposed to them.
DAMAGING = (Fault.HALF, Fault.FLIP)
KILLING = (Fault.KILL_BEFORE, Fault.KILL_AFTER)

_PAUSE = 0.03


@dataclass(frozen=True, slots=True)
class Faults:
    """A fault of ``kinds`` for the share ``rate`` of calls, drawn by ``seed``.

    And the faults ``at`` (method, n), the n-th call of that method.
    """

    kinds: tuple[Fault, ...] = ()
    seed: int = 0
    rate: float = 0.0
    at: dict[tuple[str, int], Fault] = field(default_factory=dict)

    def draw(self, method: str, number: int) -> tuple[Fault | None, random.Random]:
        """What happens to the ``number``-th call of ``method``, and the dice for its details."""
        dice = random.Random(f"{self.seed} {method} {number}")
        if (method, number) in self.at:
            return self.at[method, number], dice
        hit = dice.random() < self.rate
        kinds = [kind for kind in self.kinds if kind in APPLICABLE[method]]
        return (dice.choice(kinds) if hit and kinds else None), dice

    @property
    def all_kinds(self) -> set[Fault]:
        """Every fault that may happen."""
        return {*self.kinds, *self.at.values()}


class FaultyStore:
    """An `ObjectStore` in front of another one.

    Each fault is logged as ``store_fault`` before anything is done, and as ``store_did`` once it is done.
    """

    #: Faults strike one put of one file at a time.
    batch = 1

    def __init__(self, store: ObjectStore, faults: Faults) -> None:
        self.store, self.faults = store, faults
        self._calls: Counter[str] = Counter()
        self._deleted: list[ObjectInfo] = []
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        return self.store.identity

    def uri(self, key: str) -> str:
        return self.store.uri(key)

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        # read now: a late write must not depend on files that are gone by then
        contents = [(key, path.read_bytes()) for key, path in items]

        def create(data: Items) -> None:
            for key, content in data:
                self.store.put_bytes(key, content, overwrite=False)

        self._write("put_files", contents, create)

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        def replace(data: Items) -> None:
            self.store.put_many([(key, io.BytesIO(content)) for key, content in data])

        self._write("put_many", [(key, source.read()) for key, source in items], replace)

    def put_bytes(self, key: str, data: bytes, *, overwrite: bool = True) -> None:
        def put(items: Items) -> None:
            self.store.put_bytes(key, items[0][1], overwrite=overwrite)

        self._write("put_bytes", [(key, data)], put)

    def get_bytes(self, key: str) -> bytes | None:
        return self._call("get_bytes", key, lambda _, __: self.store.get_bytes(key))

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        def opened(fault: Fault | None, dice: random.Random) -> BinaryIO | None:
            source = self.store.open(key, size)
            if source is not None and fault is Fault.MISREAD:
                with source:
                    return io.BytesIO(_flipped(source.read(), dice))
            if source is not None and fault is Fault.BREAK_OFF:
                return _Breaking(source)
            return source

        return self._call("open", key, opened)

    def stat(self, key: str) -> ObjectInfo | None:
        def asked(fault: Fault | None, _: random.Random) -> ObjectInfo | None:
            return None if fault is Fault.STALE else self.store.stat(key)

        return self._call("stat", key, asked)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        def listed(fault: Fault | None, dice: random.Random) -> Iterator[ObjectInfo]:
            infos = list(self.store.list(prefix))
            if fault is Fault.STALE:
                return iter(self._as_before(infos, prefix, dice))
            if fault is Fault.BREAK_OFF:
                return _broken_off(infos, prefix)
            return iter(infos)

        yield from self._call("list", prefix, listed)

    def delete(self, keys: Iterable[str]) -> None:
        keys = list(keys)

        def gone(fault: Fault | None, _: random.Random) -> None:
            doomed = keys[: len(keys) // 2] if fault is Fault.HALF else keys
            infos = [info for key in doomed if (info := self.store.stat(key))]
            self.store.delete(doomed)
            with self._lock:
                self._deleted += infos
            if fault is Fault.HALF:
                raise VaultUnavailable("half of the objects were deleted")

        self._call("delete", ",".join(keys), gone)

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        return self._call(
            "compare_and_swap", key, lambda _, __: self.store.compare_and_swap(key, expected, new)
        )

    def _write(
        self,
        method: str,
        items: Items,
        put: Callable[[Items], None],
    ) -> None:
        def written(fault: Fault | None, dice: random.Random) -> None:
            if fault is Fault.HALF:
                key, content = items[0]
                put([(key, content[: len(content) // 2])])
                raise VaultUnavailable(f"{key} was half-written", path=key)
            put(
                [(key, _flipped(one, dice)) for key, one in items] if fault is Fault.FLIP else items
            )

        self._call(method, ",".join(key for key, _ in items), written)

    def _call(self, method: str, key: str, work: Callable[[Fault | None, random.Random], T]) -> T:
        with self._lock:
            self._calls[method] += 1
            number = self._calls[method]
        fault, dice = self.faults.draw(method, number)
        if fault is None:
            return work(None, dice)
        log.info("store_fault", fault=str(fault), method=method, number=number, key=key)
        if fault in (Fault.HANG, Fault.SLOW):
            time.sleep(_PAUSE)  # the fault itself: a store that takes its time
        if fault is Fault.KILL_BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.LATE:
            # not a daemon: it comes to pass before the process ends
            threading.Timer(_PAUSE, _quietly(lambda: work(None, dice))).start()
        if fault in (Fault.REFUSE, Fault.HANG, Fault.LATE):
            raise VaultUnavailable(f"{method} of {key}: {fault}", path=key)
        answer = work(fault, dice)
        log.info("store_did", fault=str(fault), method=method, number=number, key=key)
        if fault is Fault.KILL_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is Fault.LOSE_ANSWER:
            raise VaultUnavailable(f"{method} of {key}: {fault}", path=key)
        return answer

    def _as_before(
        self, infos: Sequence[ObjectInfo], prefix: str, dice: random.Random
    ) -> Sequence[ObjectInfo]:
        newest_last = sorted(infos, key=lambda info: str(info.modified_at))
        old = newest_last[: len(infos) - dice.randint(0, min(3, len(infos)))]
        with self._lock:
            ghosts = [info for info in self._deleted if info.key.startswith(f"{prefix}/")]
        return sorted(old + ghosts, key=lambda info: info.key)


class _Breaking(io.RawIOBase):
    """A reader whose connection breaks after the first read."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source, self._reads = source, 0

    def read(self, size: int | None = -1) -> bytes:
        self._reads += 1
        if self._reads > 1:
            raise VaultUnavailable("the connection broke off")
        return self._source.read(-1 if size is None else size)

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
        self._source.close()
        super().close()


def _broken_off(infos: list[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
    yield from infos[: len(infos) // 2]
    raise VaultUnavailable(f"the listing of {prefix} broke off", path=prefix)


def _flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    if changed:
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _quietly(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        # nobody is there any more to be told
        with contextlib.suppress(Exception):
            work()

    return run
