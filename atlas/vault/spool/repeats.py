"""In which order this machine appended samples: of 1, 2, 1 the third is no repeat of the first.

For each appended file of the last days there is one small file: its name says the order, the bounds and the
digest of the rows, its content is a hash for each (video_id, timestamp), no id. Losing one loses no sample: a
repeat may then be taken for new, and readers count its rows once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from atlas.vault import files
from atlas.vault.metrics import MetricsFile

#: Days for which an appended file is remembered, today besides.
REMEMBERED_DAYS = 7

_NAME = re.compile(r"(\d{1,19})_(\d{1,17})_(\d{1,17})_([0-9a-f]{32})_([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An appended file as it is remembered."""

    seq: int
    first: int
    last: int
    rows: str
    digest: str
    path: str


class Repeats:
    """The files that were appended, under ``folder/<date>``; for any number of threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def changed_since(self, file: MetricsFile) -> str | None:
        """The digest of what was appended last to one of these samples; None if that were these rows."""
        samples = file.sample_hashes()
        for entry in sorted(self._entries(), key=lambda entry: entry.seq, reverse=True):
            if entry.rows == file.rows_digest:
                return None
            if entry.first > file.last or file.first > entry.last:
                continue
            with contextlib.suppress(FileNotFoundError):
                if np.isin(samples, np.fromfile(entry.path, np.int64)).any():
                    return entry.digest
        return None

    def note(self, file: MetricsFile, today: date) -> None:
        """Remember that the file was appended."""
        folder = self._folder / today.isoformat()
        name = f"{file.seq}_{file.first}_{file.last}_{file.rows_digest}_{file.digest}"
        with files.raised_as_vault_error(str(folder)):
            if not folder.exists():
                files.make_folder(folder)
                forget_days(self._folder, today)
            (folder / name).touch(mode=0o600)
            file.sample_hashes().tofile(folder / name)

    def _entries(self) -> Iterator[_Entry]:
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            with contextlib.suppress(NotADirectoryError, FileNotFoundError):
                for found in os.scandir(folder):
                    if parts := _NAME.fullmatch(found.name):
                        seq, first, last = map(int, parts.groups()[:3])
                        yield _Entry(seq, first, last, parts[4], parts[5], found.path)


def forget_days(folder: Path, today: date) -> None:
    """Remove the folders of days that are not remembered any more."""
    oldest = today - timedelta(days=REMEMBERED_DAYS)
    for one in folder.iterdir():
        with contextlib.suppress(ValueError):  # not ours
            if date.fromisoformat(one.name) < oldest:
                shutil.rmtree(one, ignore_errors=True)
