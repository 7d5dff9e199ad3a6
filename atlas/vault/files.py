"""Local files that are there whole or not at all, and survive a crash once a call has returned."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from atlas.errors import NO_SPACE, VaultDenied, VaultError, VaultFull, VaultUnavailable

_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP}
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE, errno.ENFILE}
#: A file system that has no hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@contextlib.contextmanager
def raised_as_vault_error(path: str) -> Iterator[None]:
    """Raise what the operating system refuses as `VaultError`; ``path`` says what was at work."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        message = f"{path}: {reason}"
        if error.errno in NO_SPACE:
            raise VaultFull(message, path=path) from error
        if error.errno in _DENIED:
            denied = "check who owns the folder and its permissions"
            raise VaultDenied(message, path=path, hint=denied) from error
        if error.errno in _TRANSIENT:
            raise VaultUnavailable(message, path=path) from error
        mixed = isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError)
        confused = "a file is where a folder is needed, or the other way round" if mixed else None
        raise VaultError(message, path=path, hint=confused) from error


def make_folder(path: Path) -> None:
    """Make the folder and its parents, private to the user, and have their names on the disk."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is needed", folder)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Have the names in this folder on the disk."""
    if os.name == "nt":  # a folder cannot be opened there, and its names are journalled
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def stage(folder: Path, write: Callable[[BinaryIO], object]) -> Path:
    """A new hidden file in ``folder`` with what ``write`` writes into it, on the disk; none if it fails."""
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        handle = os.open(
            path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600
        )
        with open(handle, "wb") as target:
            write(target)
            target.flush()
            os.fsync(handle)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def locked(lock: Path, seconds: float = 30.0) -> Iterator[None]:
    """Hold a lock that is one process's of this machine at a time.

    Raises `VaultUnavailable` where another one holds it for so many seconds, and as `raised_as_vault_error`.
    """
    file = FileLock(lock, timeout=seconds, mode=0o600)
    with raised_as_vault_error(str(lock)):
        try:
            file.acquire()
        except Timeout as error:
            raise VaultUnavailable(
                f"could not acquire the lock {lock} within {seconds:.0f} s",
                hint="another process of this machine holds it",
            ) from error
    try:
        yield
    finally:
        file.release()


def create(staged: Path, path: Path) -> None:
    """Give a staged file its name, unless that is taken: FileExistsError, and the file stays staged.

    A link is the one operation that never replaces; on a file system without links writers take turns.
    """
    try:
        os.link(staged, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with locked(path.parent / ".lock"):
            if path.exists():
                raise FileExistsError(errno.EEXIST, "exists", path) from error
            os.replace(staged, path)
    else:
        staged.unlink()
    sync_folder(path.parent)


def replace(staged: Path, path: Path) -> None:
    """Give a staged file its name, whatever had it."""
    os.replace(staged, path)
    sync_folder(path.parent)
