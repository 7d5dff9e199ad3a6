"""What every store does alike: reading through fsspec, and translating failures into the error tree."""

from __future__ import annotations

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from atlas.errors import CorruptObject, ObjectExists, VaultError, VaultUnavailable
from atlas.types import ObjectInfo
from atlas.vault.layout import check_key
from atlas.vault.temporary import workdir

#: Bytes moved at once while an object is copied.
COPY_BYTES = 4 << 20


class FsspecStore(ABC):
    """An `atlas.types.ObjectStore` on an fsspec file system.

    A provider adds what fsspec leaves open: create-only writes, compare-and-swap, and what its errors
    mean. Nothing is opened before the first use.
    """

    #: How many files one call of `put_files` creates in a single atomic step.
    batch = 1

    def __init__(self, identity: str, uri_base: str) -> None:
        self._identity = identity
        self._uri_base = uri_base

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._identity})"

    @property
    def identity(self) -> str:
        """Stable name of this place, without secrets."""
        return self._identity

    def uri(self, key: str) -> str:
        """Address of an object for people and other programs."""
        return self._uri_base + check_key(key)

    @abstractmethod
    def _translated(self, key: str) -> AbstractContextManager[None]:
        """Raise the provider's errors as `VaultError`."""

    @abstractmethod
    def _open(self, key: str) -> Source:
        """How to read an object; FileNotFoundError and its like if there is none."""

    def _open_known(self, key: str, size: int) -> Source:
        """The same for an object of known size; overridden where looking it up costs a request."""
        return self._open(key)

    @abstractmethod
    def _create(self, key: str, source: BinaryIO) -> None:
        """Write an object whole, or raise `ObjectExists`."""

    @abstractmethod
    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write every object whole, replacing what is there."""

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time as the store knows them now."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under the folder ``prefix``, in key order."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those already gone are no error."""

    @abstractmethod
    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the object only if its content is ``expected`` (None: absent)."""

    def put_bytes(self, key: str, data: bytes, *, overwrite: bool = True) -> None:
        """Write a small object whole. With ``overwrite=False`` raises `ObjectExists` if taken."""
        if overwrite:
            self.put_many([(key, io.BytesIO(data))])
        else:
            self._create(check_key(key), io.BytesIO(data))

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        """Create every object from its local file, in their order.

        Keys are looked at before anything is written. A failure or a crash in between leaves the first of
        them, each whole: nothing is deleted here, because another history of the database may count on it
        by then (docs/adoption.md).
        """
        keys = [(check_key(key), path) for key, path in items]
        if len(keys) > 1:
            for key, _ in keys:
                if self.stat(key) is not None:
                    raise taken(key)
        for key, path in keys:
            with path.open("rb") as source:
                self._create(key, source)

    def get_bytes(self, key: str) -> bytes | None:
        """The object's content, or None if there is none."""
        source = self.open(key)
        if source is None:
            return None
        with source:
            return source.read()

    def open(self, key: str, size: int | None = None) -> BinaryIO | None:
        """A seekable reader; each read is one ranged request. None if there is no such object.

        With ``size`` no request is made to learn it. Raises `CorruptObject` where the object is seen to
        have another size.
        """
        key = check_key(key)
        with self._translated(key):
            try:
                source = self._open(key) if size is None else self._open_known(key, size)
            except (FileNotFoundError, IsADirectoryError):
                return None
        if size is not None and source.size != size:
            source.close()
            raise CorruptObject(f"{key} has {source.size} bytes, written were {size}", path=key)
        return cast(BinaryIO, Reader(key, source, self._translated))


@dataclass(frozen=True, slots=True)
class Source:
    """An object opened for reading: its size, and what fetches the bytes from start to end.

    ``seen`` is False where nobody has asked the store yet whether the object exists.
    """

    size: int
    fetch: Callable[[int, int], bytes]
    close: Callable[[], object] = lambda: None
    seen: bool = True

    @staticmethod
    def of_file(file: Any) -> Source:
        """A seekable file as a source."""

        def fetch(start: int, end: int) -> bytes:
            file.seek(start)
            data: bytes = file.read(end - start)
            return data

        return Source(file.seek(0, io.SEEK_END), fetch, file.close)


class Reader(io.RawIOBase):
    """Reads an object by ranges: each read is one fetch, whole or a `VaultError`. One thread at a time."""

    def __init__(
        self, key: str, source: Source, translated: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        super().__init__()
        self._key, self._source, self._translated = key, source, translated
        self._position = 0

    def read(self, size: int | None = -1) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end of the object."""
        self._check_open()
        left = max(0, self._source.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        end = self._position + wanted
        try:
            with self._translated(self._key):
                data = self._source.fetch(self._position, end)
        except FileNotFoundError as error:
            if not self._source.seen:
                raise VaultError(f"{self._key} is not in the vault", path=self._key) from error
            raise VaultUnavailable(
                f"{self._key} was replaced or removed while it was read", path=self._key
            ) from error
        if len(data) != wanted:
            # a server that ignores Range sends the whole object; one that breaks off sends less
            raise VaultUnavailable(
                f"{self._key}: asked for {wanted} bytes, got {len(data)}", path=self._key
            )
        self._position = end
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def taken(key: str) -> ObjectExists:
    """The error of a create-only write that finds an object."""
    return ObjectExists(f"{key} exists already", path=key)


@contextlib.contextmanager
def local_copy(source: BinaryIO) -> Iterator[Path]:
    """A temporary copy of ``source``: uploads are retried, and need sizes and hashes first."""
    with workdir("upload") as folder:
        path = folder / "object"
        with path.open("wb") as target:
            while chunk := source.read(COPY_BYTES):
                target.write(chunk)
        yield path
