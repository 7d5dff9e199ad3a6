"""PgBouncer in transaction mode, in front of the server of the tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.support.servers import guard

#: Debian puts it where only root's PATH looks.
_PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
#: Server connections: fewer than the clients of a test, so that these meet on each other's.
POOL_SIZE = 3


@contextlib.contextmanager
def running(url: str, *settings_: str) -> Iterator[str]:
    """The URL by which clients reach the database of ``url`` through a pooler, gone at the end.

    Skips the test where the program is not installed.
    """
    if _PROGRAM is None:
        pytest.skip("needs the program pgbouncer (Debian's package of that name)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir=guard.folder()) as name:
        folder = Path(name)
        settings = folder / "pgbouncer.ini"
        settings.write_text(f"""
[databases]
* = {_server(url)}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pidfile = {folder}/server.pid
auth_type = any
pool_mode = transaction
default_pool_size = {POOL_SIZE}
{_account(folder)}
{chr(10).join(settings_)}
""")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [_PROGRAM, settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait(process, port, folder / "log")
            yield urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{port}", query="").geturl()
        finally:
            process.kill()
            process.wait()


def _server(url: str) -> str:
    """The server as PgBouncer's settings name it; a socket's folder is opened for its account."""
    parts = urlsplit(url)
    found = {
        "host": parts.hostname or parse_qs(parts.query)["host"][0],
        "port": str(parts.port or 5432),
        "user": unquote(parts.username or "postgres"),
        "password": unquote(parts.password or ""),
    }
    if found["host"].startswith("/"):
        place = Path(found["host"])
        for folder in (place, place.parent):
            folder.chmod(folder.stat().st_mode | 0o011)
    return " ".join(f"{name}={value}" for name, value in found.items() if value)


def _account(folder: Path) -> str:
    """It refuses to run as root, and then changes to another account."""
    if os.geteuid() != 0:
        return ""
    account = pwd.getpwnam("nobody")
    folder.parent.chmod(folder.parent.stat().st_mode | 0o011)
    for path in (folder, *folder.iterdir()):
        os.chown(path, account.pw_uid, account.pw_gid)
    return f"user = {account.pw_name}"


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + 10
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)  # it does not tell when it listens
    raise AssertionError(f"pgbouncer does not listen:\n{log.read_text()}")
