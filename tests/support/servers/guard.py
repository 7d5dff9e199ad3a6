"""The folder of a test run's servers, which ends with the run, even with one that was killed.

A process beside waits for the end of the run's process, which closes the pipe between them; then it stops
every server below the folder and below those that `watch` named, and removes the folder.

Usage: python guard.py FOLDER
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Seconds that a server may take for its end.
PATIENCE = 10.0

_folder: Path | None = None
_guard: subprocess.Popen[bytes] | None = None


def folder() -> Path:
    """The folder of this run."""
    global _folder, _guard
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="atlas-tests-"))
        _guard = subprocess.Popen(
            [sys.executable, "-S", __file__, str(_folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the run is not for it
        )
    return _folder


def join(path: str) -> None:
    """Use the folder of another process's run."""
    global _folder
    _folder = Path(path)


def watch(path: Path) -> None:
    """Servers below ``path`` end with the run too."""
    (folder() / f"watched-{os.getpid()}").write_text(str(path))


def end() -> None:
    """End the run in order: nothing is left when this returns."""
    global _folder, _guard
    if _guard is not None:
        _guard.communicate(timeout=6 * PATIENCE)
    _folder = _guard = None


def _stop_servers(place: Path) -> None:
    for path, _, files in os.walk(place):
        for name in {"postmaster.pid", "server.pid"} & set(files):
            with contextlib.suppress(FileNotFoundError, ValueError):  # gone, or not yet written
                lines = (Path(path) / name).read_text().splitlines()
                _stop(int(lines[0]))
                if len(lines) > 4 and Path(lines[4]).name.startswith("atlas-pg-"):
                    shutil.rmtree(lines[4], ignore_errors=True)  # its sockets


def _stop(process_id: int) -> None:
    until = time.monotonic() + PATIENCE
    try:
        os.kill(process_id, signal.SIGQUIT)  # an immediate shutdown, of its children too
        while time.monotonic() < until:
            os.kill(process_id, 0)
            time.sleep(0.02)
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main(place: Path) -> None:
    """Wait for the end of the run, then clear up."""
    sys.stdin.read()
    for file in place.glob("watched-*"):
        _stop_servers(Path(file.read_text()))
    _stop_servers(place)
    shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
