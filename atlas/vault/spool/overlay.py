"""A vault's storage as this machine sees it: with the rows that it has appended and not delivered yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from atlas.types import Dataset, ObjectInfo, ReadableStore
from atlas.vault.spool.metrics import Spool


@dataclass(frozen=True, slots=True)
class WithWaitingRows:
    """The store, and above it the spool: rows are there as soon as ``append_metrics`` returns."""

    store: ReadableStore
    spool: Spool

    @property
    def identity(self) -> str:
        """The name of the store."""
        return self.store.identity

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        """A reader of what waits under the key, else of the object."""
        return self.spool.open_rows(key) or self.store.open(key, size)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """What waits, and the objects, in key order; each key once."""
        # the spool first: what leaves it meanwhile is in the store
        waiting = self.spool.rows() if prefix == Dataset.METRICS else []
        found = {info.key: info for info in (*waiting, *self.store.list(prefix))}
        yield from (found[key] for key in sorted(found))
