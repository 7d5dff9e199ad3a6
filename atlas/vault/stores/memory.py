"""A store that lives as long as the process: fsspec's ``memory://`` under a name."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, BinaryIO

from atlas.types import ObjectInfo
from atlas.vault import files
from atlas.vault.layout import check_folder, check_key
from atlas.vault.stores.base import FsspecStore, Source, taken

#: fsspec's memory is one dictionary for the process: looking and writing have to be one step.
_LOCK = threading.RLock()


class MemoryStore(FsspecStore):
    """Objects of one name are shared by all stores of that name in the process."""

    def __init__(self, name: str, prefix: str = "") -> None:
        root = "/".join(
            part for part in (check_key(name, field="name"), check_folder(prefix)) if part
        )
        super().__init__(f"memory://{root}", f"memory://{root}/")
        self._root = f"/{root}/"

    @cached_property
    def fs(self) -> Any:
        """The file system of fsspec."""
        import fsspec

        return fsspec.filesystem("memory")

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time of the object, or None."""
        path = self._root + check_key(key)
        with _LOCK:
            if not self.fs.isfile(path):
                return None
            return ObjectInfo(key, len(self.fs.cat_file(path)), self.fs.modified(path))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under the folder, as of one moment."""
        prefix = check_folder(prefix)
        folder = self._root + (f"{prefix}/" if prefix else "")
        with _LOCK:
            found = self.fs.find(folder, detail=True)
            infos = [
                ObjectInfo(path.removeprefix(self._root), entry["size"], self.fs.modified(path))
                for path, entry in found.items()
                if path.startswith(folder)
            ]
        yield from sorted(infos, key=lambda info: info.key)

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write each object whole, replacing what is there."""
        for key, source in items:
            key = check_key(key)
            data = source.read()
            with self._translated(key), _LOCK:
                self.fs.pipe_file(self._root + key, data)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those already gone are no error."""
        for key in map(check_key, keys):
            with _LOCK:
                if self.fs.isfile(self._root + key):
                    self.fs.rm_file(self._root + key)

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the object only if its content is ``expected``."""
        with _LOCK:
            if self.get_bytes(key) != expected:
                return False
            self.put_bytes(key, new)
        return True

    def _create(self, key: str, source: BinaryIO) -> None:
        data = source.read()
        with self._translated(key), _LOCK:
            if self.fs.isfile(self._root + key):
                raise taken(key)
            self.fs.pipe_file(self._root + key, data)

    def _open(self, key: str) -> Source:
        # fsspec would hand out the stored object itself, with a position shared by all its readers
        data: bytes = self.fs.cat_file(self._root + key)
        return Source(len(data), lambda start, end: data[start:end])

    def _translated(self, key: str) -> AbstractContextManager[None]:
        return files.raised_as_vault_error(key)
