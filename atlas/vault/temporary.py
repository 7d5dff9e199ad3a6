"""Temporary folders under ATLAS_HOME, private to the user; what a crash left is removed by a later call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from atlas.config import get_settings

#: Temporary folders older than this were left by a crash.
_STALE_SECONDS = 86_400


@contextmanager
def workdir(prefix: str = "archive") -> Iterator[Path]:
    """A private folder for temporary data, gone afterwards; ``prefix`` says whose."""
    home = get_settings().atlas_home / "tmp"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in home.iterdir():
        # gone already if another process cleans at the same time
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - _STALE_SECONDS:
                rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=home) as folder:
        yield Path(folder)
