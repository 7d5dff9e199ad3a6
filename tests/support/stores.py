"""Stores for tests: one that counts what is asked of it, and one that refuses every question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn, cast

import fsspec.asyn

from atlas.types import ObjectInfo, ObjectStore
from atlas.vault.stores.gcs import GCSStore


@dataclass
class Counts:
    """Requests as a remote store would see them."""

    lists: int = 0
    looks: int = 0
    reads: list[tuple[str, int]] = field(default_factory=list)
    open: int = 0

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.reads)

    @property
    def keys(self) -> set[str]:
        return {key for key, _ in self.reads}


class CountedStore:
    """Passes on to another store; ``counts`` has the listings, the looks for a size and the ranged reads.

    ``before_read`` is called with the key before each read.
    """

    def __init__(
        self, store: ObjectStore, before_read: Callable[[str], object] = lambda key: None
    ) -> None:
        self._store = store
        self.before_read = before_read
        self.counts = Counts()
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self.lock:
            self.counts.lists += 1
        return self._store.list(prefix)

    def stat(self, key: str) -> ObjectInfo | None:
        with self.lock:
            self.counts.looks += 1
        return self._store.stat(key)

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        with self.lock:
            self.counts.looks += size is None
        source = self._store.open(key, size)
        return None if source is None else cast(BinaryIO, _CountedReader(self, key, source))


class _CountedReader:
    def __init__(self, store: CountedStore, key: str, source: BinaryIO) -> None:
        self._store, self._key, self._source = store, key, source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __enter__(self) -> _CountedReader:
        with self._store.lock:
            self._store.counts.open += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()
        with self._store.lock:
            self._store.counts.open -= 1

    def read(self, size: int = -1) -> bytes:
        self._store.before_read(self._key)
        data = self._source.read(size)
        with self._store.lock:
            self._store.counts.reads.append((self._key, len(data)))
        return data


class SilentStore:
    """A store that must not be asked: every method raises."""

    identity = "silent://"

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"the store was asked for {name}")


def close(store: GCSStore) -> None:
    """Close what its client keeps open."""
    if "fs" in vars(store) and store.fs.session is not None:
        fsspec.asyn.sync(store.fs.loop, store.fs.session.close)
