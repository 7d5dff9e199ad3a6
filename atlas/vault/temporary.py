"""Temporary folders under ATLAS_HOME, private to the user; what a crash left is removed by a later call."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import disk_usage, rmtree

from atlas.config import get_settings
from atlas.errors import NO_SPACE, VaultFull

#: Temporary folders older than this were left by a crash.
_STALE_SECONDS = 86_400


@contextmanager
def workdir(prefix: str = "archive") -> Iterator[Path]:
    """A private folder for temporary data, gone afterwards; ``prefix`` says whose.

    Raises `VaultFull` where no space is left for what is written there.
    """
    home = get_settings().atlas_home / "tmp"
    with _disk_full_as_vault_full(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in home.iterdir():
            # gone already if another process cleans at the same time
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _STALE_SECONDS:
                    rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=home) as folder:
            yield Path(folder)


@contextmanager
def _disk_full_as_vault_full(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        named = isinstance(error.filename, str | bytes)
        elsewhere = named and home not in Path(os.fsdecode(error.filename)).parents
        if error.errno not in NO_SPACE or elsewhere:
            raise
        raise VaultFull(
            f"no space for a temporary file in {home}: {disk_usage(home.parent).free} bytes free",
            path=str(home),
            hint="free space or set ATLAS_HOME to a larger disk; nothing was lost",
        ) from error
