"""A folder as a store.

fsspec's local file system reads; writing goes by the operating system, because fsspec has neither
create-only writes nor fsync, and its listing leaves out in silence what it may not read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from atlas.errors import VaultDenied
from atlas.types import ObjectInfo
from atlas.vault import files
from atlas.vault.layout import CARD, check_folder, check_key, file_uri
from atlas.vault.stores.base import COPY_BYTES, FsspecStore, Source, taken
from atlas.vault.stores.card import fresh_card, tables


class LocalStore(FsspecStore):
    """Objects are files under ``root``, a folder private to the user, made when first written to.

    A write goes to a hidden temporary file, is flushed to the disk and then given its name, so that an
    object is there whole or not at all, for other processes and after a power cut too. Replacing,
    deleting and swapping take turns under a lock file, between processes too. Symbolic links below
    ``root`` are refused. With ``card`` the first new file of a table leaves a dataset card, if there is none.
    """

    def __init__(self, root: str | Path, *, card: bool = False) -> None:
        self._card_due = card
        self.root = Path(os.path.realpath(Path(root).expanduser()))
        uri = file_uri(self.root.as_posix()).rstrip("/")
        super().__init__(uri, f"{uri}/")

    @cached_property
    def fs(self) -> Any:
        """The file system of fsspec."""
        import fsspec

        return fsspec.filesystem("file", use_listings_cache=False)

    def uri(self, key: str) -> str:
        """``file:///...``, percent-encoded."""
        return file_uri((self.root / check_key(key)).as_posix())

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and time of the file, or None."""
        key = check_key(key)
        with self._translated(key):
            try:
                found = self._path(key).stat()
            except FileNotFoundError:
                return None
            except NotADirectoryError:
                self._missing()
                return None
        return _info(key, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every file under the folder, in key order; hidden names are not objects."""
        prefix = check_folder(prefix)
        with self._translated(prefix):
            folder = self._path(prefix) if prefix else self.root
            if folder.is_dir():
                yield from self._walk(prefix, folder)
            else:
                self._missing()

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write each file whole, replacing what is there."""
        for key, source in items:
            key = check_key(key)
            with self._translated(key):
                path = self._path(key)
                staged = self._stage(path, source)
                with _unless_named(staged), self._lock():
                    files.replace(staged, path)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those already gone are no error."""
        for key in map(check_key, keys):
            with self._translated(key), contextlib.suppress(FileNotFoundError):
                path = self._path(key)
                if path.exists():
                    with self._lock():
                        path.unlink()
                        files.sync_folder(path.parent)

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the file only if its content is ``expected``, against every other process."""
        key = check_key(key)
        with self._translated(key):
            path = self._path(key)
            files.make_folder(path.parent)
            with self._lock():
                if self.get_bytes(key) != expected:
                    return False
                staged = files.stage(path.parent, lambda target: target.write(new))
                with _unless_named(staged):
                    if expected is not None:
                        files.replace(staged, path)
                        return True
                    try:
                        files.create(staged, path)
                    except FileExistsError:  # a create-only write does not wait for the lock
                        return False
        return True

    def _create(self, key: str, source: BinaryIO) -> None:
        with self._translated(key):
            path = self._path(key)
            if path.exists():
                raise taken(key)
            staged = self._stage(path, source)
            with _unless_named(staged):
                try:
                    files.create(staged, path)
                except FileExistsError:
                    raise taken(key) from None
        self._leave_card(key)

    def _leave_card(self, key: str) -> None:
        """After the first file of a table. A person's own card stays, and one that cannot be written is no
        reason to fail: the next process tries."""
        if not self._card_due or key.split("/", 1)[0] not in tables(""):
            return
        self._card_due = False
        path = self.root / CARD
        with contextlib.suppress(OSError):
            if not path.exists():
                staged = files.stage(self.root, lambda target: target.write(fresh_card().encode()))
                with _unless_named(staged):
                    files.create(staged, path)

    def _open(self, key: str) -> Source:
        try:
            return Source.of_file(self.fs.open(str(self._path(key)), "rb"))
        except NotADirectoryError:
            self._missing()
            raise FileNotFoundError(key) from None

    def _translated(self, key: str) -> AbstractContextManager[None]:
        return files.raised_as_vault_error(key or str(self.root))

    def _path(self, key: str) -> Path:
        path = self.root / key
        if os.path.realpath(path) != str(path):
            raise VaultDenied(
                f"{key} leads through a symbolic link",
                path=key,
                hint="links below the vault's folder are refused; put the files there instead",
            )
        return path

    def _missing(self) -> None:
        """A file where a folder is looked for means no such object, but not at the vault or above it."""
        there = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is not a folder", str(there))

    def _stage(self, path: Path, source: BinaryIO) -> Path:
        files.make_folder(path.parent)
        return files.stage(path.parent, partial(shutil.copyfileobj, source, length=COPY_BYTES))

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return files.locked(self.root / ".lock")

    def _walk(self, prefix: str, folder: Path) -> Iterator[ObjectInfo]:
        try:
            entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        except FileNotFoundError:
            return
        named = []
        for entry in entries:
            if entry.is_symlink():
                raise VaultDenied(f"{entry.path} is a symbolic link", path=prefix)
            # in the order of keys "a.b" comes before what is in the folder "a"
            if not prefix and entry.name == CARD:
                continue
            is_folder = entry.is_dir()
            name = unicodedata.normalize("NFC", entry.name)
            named.append((f"{name}/" if is_folder else name, entry, is_folder))
        for name, entry, is_folder in sorted(named, key=lambda one: one[0]):
            key = f"{prefix}/{name}" if prefix else name
            if is_folder:
                yield from self._walk(key.rstrip("/"), Path(entry.path))
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                found = entry.stat()
                if stat.S_ISREG(found.st_mode):
                    yield _info(key, found)


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


@contextlib.contextmanager
def _unless_named(staged: Path) -> Iterator[None]:
    """Remove the staged file if it was not given a name."""
    try:
        yield
    finally:
        staged.unlink(missing_ok=True)
