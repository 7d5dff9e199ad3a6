"""Documents that wait on this machine's disk until the store has them, the last write of each path."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from atlas.errors import VaultDenied, VaultError, VaultFull, VaultUnavailable
from atlas.logging import get_logger
from atlas.types import ObjectStore
from atlas.vault import files

log = get_logger(__name__)

#: Bytes of documents in one delivery, unless a single one has more.
_BATCH_BYTES = 256 << 20
_COPY_BYTES = 1 << 20
#: Temporary files older than this were left by a crash.
_STALE_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A document opened for delivery; the open file keeps its inode from being given to another."""

    key: str
    path: Path
    file: BinaryIO
    begin: int

    def is_the_one_at(self, path: Path) -> bool:
        """Whether the path still leads to this write and not to a later one."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return False


class Documents:
    """One file a path under ``folder``: the key in the first line, then the content.

    A later write replaces the file, so that a path's writes reach the store in order, the last one only.
    Any number of processes may add; delivering is for one at a time, see `Outbox`. A document leaves when the
    store has it, unless it was written again meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._refused = folder / "refused"

    def add(self, key: str, source: BinaryIO) -> None:
        """Keep a document on the disk. Raises `VaultFull`, `VaultDenied` or `VaultError`."""

        def write(target: BinaryIO) -> None:
            target.write(f"{key}\n".encode())
            shutil.copyfileobj(source, target, _COPY_BYTES)

        with files.raised_as_vault_error(str(self._folder)):
            files.make_folder(self._folder)
            staged = files.stage(self._folder, write)
            try:
                with files.locked(self._folder / ".lock"):
                    files.replace(staged, self._path(key))
            finally:
                staged.unlink(missing_ok=True)
        log.debug("document_spooled", key=key)

    def holds(self, key: str) -> bool:
        """Whether a document of that path waits."""
        return self._path(key).exists()

    def get(self, key: str) -> bytes | None:
        """The content that waits for that path, or None."""
        with files.raised_as_vault_error(key):
            try:
                with self._path(key).open("rb") as file:
                    file.readline()
                    return file.read()
            except FileNotFoundError:
                return None

    def keys(self) -> list[str]:
        """The paths for which documents wait."""
        found = []
        for path in self.waiting():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                found.append(file.readline().decode().rstrip("\n"))
        return found

    def waiting(self) -> list[Path]:
        """The files, oldest first."""
        entries = []
        with files.raised_as_vault_error(str(self._folder)):
            try:
                listed = [*os.scandir(self._folder)]
            except FileNotFoundError:
                return []
            for entry in listed:
                with contextlib.suppress(FileNotFoundError):
                    written = entry.stat().st_mtime
                    if entry.name.endswith(".tmp") and written < time.time() - _STALE_SECONDS:
                        os.unlink(entry.path)
                    elif entry.is_file() and not entry.name.startswith("."):
                        entries.append((written, entry.path))
        return [Path(path) for _, path in sorted(entries)]

    def refused(self) -> int:
        """How many documents the store refused for good; they lie in ``refused/`` for a person."""
        return len([*self._refused.iterdir()]) if self._refused.is_dir() else 0

    def drop_refused(self, wanted: Callable[[str], bool]) -> list[str]:
        """Remove those whose key is wanted; returns their keys."""
        dropped = []
        with files.raised_as_vault_error(str(self._refused)):
            for path in [*self._refused.iterdir()] if self._refused.is_dir() else []:
                with path.open("rb") as file:
                    key = file.readline().decode().rstrip("\n")
                if wanted(key):
                    path.unlink()
                    dropped.append(key)
        return dropped

    def deliver(self, store: ObjectStore, most: int) -> int:
        """Write up to ``most`` waiting documents in one call of the store; returns how many left.

        Raises `VaultError`; what was not delivered stays. One that the store refuses for good does not hold
        up the others: it is put aside.
        """
        with ExitStack() as stack:
            batch = self._open(stack, most)
            return self._put(store, batch) if batch else 0

    def _open(self, stack: ExitStack, most: int) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        for path in self.waiting():
            try:
                file = stack.enter_context(path.open("rb"))
            except FileNotFoundError:
                continue
            key = file.readline().decode().rstrip("\n")
            size += os.fstat(file.fileno()).st_size
            if batch and (len(batch) == most or size > _BATCH_BYTES):
                break
            batch.append(_Waiting(key, path, file, file.tell()))
        return batch

    def _put(self, store: ObjectStore, batch: list[_Waiting]) -> int:
        for one in batch:
            one.file.seek(one.begin)
        try:
            store.put_many([(one.key, one.file) for one in batch])
        except (VaultUnavailable, VaultDenied, VaultFull):
            raise
        except VaultError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return self._put(store, batch[:half]) + self._put(store, batch[half:])
            log.error("document_refused", key=batch[0].key, error=str(error))
            self._leave(batch, self._refused)
            return 0
        log.debug("documents_delivered", files=len(batch))
        self._leave(batch)
        return len(batch)

    def _leave(self, batch: list[_Waiting], aside: Path | None = None) -> None:
        with files.raised_as_vault_error(str(self._folder)), files.locked(self._folder / ".lock"):
            for one in batch:
                if not one.is_the_one_at(one.path):
                    continue
                if aside is None:
                    one.path.unlink()
                else:
                    files.make_folder(aside)
                    files.replace(one.path, aside / one.path.name)

    def _path(self, key: str) -> Path:
        # by digest: a key is longer than a file's name may be
        return self._folder / hashlib.sha256(key.encode()).hexdigest()
