"""The report of an import: what came of it, and the file of rows to be mended.

The file has whole rows: line, field, value and reason, then the columns of the input as they were. Mended, it
can be imported as it is. Cells that a spreadsheet would take for a formula get an apostrophe before them,
which an import of a report takes away again.
"""

from __future__ import annotations

import csv
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from atlas.errors import AtlasError, InvalidInput
from atlas.importing.files.spool import OWN
from atlas.importing.files.text import BROKEN, printable

#: How a report begins; by it one is known when it is imported.
LEADING = ("line", "field", "value", "reason")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_SUSPICIOUS = "'=+-@\t\r"


@dataclass(slots=True)
class ImportReport:
    """What an import did. ``good + bad + skipped == rows``; ``partial`` are good rows that lost a field.

    ``samples`` are distinct (video_id, timestamp), ``new + replaced + unchanged`` of them. ``mapping``
    shows for each group of columns which field was read from which, ``ignored`` what was not read.
    """

    rows: int = 0
    good: int = 0
    bad: int = 0
    skipped: int = 0
    partial: int = 0
    videos: int = 0
    samples: int = 0
    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    forgotten: int = 0
    without_counters: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    skipped_reasons: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    mapping: list[dict[str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rejected: str | None = None


def defused(cell: str) -> str:
    """The cell as no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell[:1] in _SUSPICIOUS and _FORMULA.match(cell) else cell


def as_it_was(batch: pa.Table) -> pa.Table:
    """A batch of a report without what `defused` put before its cells."""
    for at, name in enumerate(batch.column_names):
        if name not in OWN:
            cells = pc.replace_substring_regex(batch[name], r"(?s)^'('*[=+\-@\t\r])", r"\1")
            batch = batch.set_column(at, as_it_was_named(name), cells)
    return batch


def as_it_was_named(name: str) -> str:
    """The name of a column of a report without what `defused` put before it."""
    return name[1:] if name[:1] == "'" and _FORMULA.match(name) else name


def check_place(path: Path, inputs: Iterable[Path]) -> None:
    """Raise `InvalidInput` where a report would destroy something: an input, or what a link points to."""
    for one in inputs:
        with suppress(OSError):
            if os.path.samefile(path, one):
                raise _refused(path, "is an input itself: it would be overwritten")
        if path.absolute() == one.absolute():
            raise _refused(path, "is an input itself: it would be overwritten")
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            raise _refused(path, "is a symbolic link, which is not followed")
        if stat.S_ISDIR(mode):
            raise _refused(path, "is a folder")


def _refused(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"the report {printable(str(path))} {why}",
        field="report",
        value=str(path),
        hint="give another place with --report",
    )


class ReportFile:
    """The file; there is none as long as nothing is reported. It appears whole, when it is closed."""

    def __init__(self, path: Path, header: Sequence[str], *, with_file: bool) -> None:
        self.path = path
        self._header = [*LEADING, *(["file"] if with_file else []), *header]
        self._with_file = with_file
        self._file: IO[str] | None = None
        self._writer: Any = None
        self._temporary: str | None = None

    def add(
        self, line: int, name: str, value: str, reason: str, file: str, cells: Iterable[str | None]
    ) -> None:
        """Write one row; ``cells`` in the order of the header."""
        try:
            if self._file is None:
                self._open()
            start = [str(line), printable(name), defused(printable(value[:200])), reason]
            if self._with_file:
                start.append(defused(printable(file)))
            self._writer.writerow(
                [*start, *(defused((one or "").replace(BROKEN, "\ufffd")) for one in cells)]
            )
        except OSError as error:
            raise self._failed(error) from error

    def _open(self) -> None:
        if self.path.exists() and not self.path.is_file():  # /dev/null, a pipe
            self._file = self.path.open("w", newline="", encoding="utf-8")
        else:
            descriptor, self._temporary = tempfile.mkstemp(
                prefix=f".{self.path.name[:100]}.", dir=self.path.parent
            )
            os.fchmod(descriptor, 0o644)
            self._file = os.fdopen(descriptor, "w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow([defused(name) for name in self._header])

    def close(self, *, keep: bool = True) -> bool:
        """Put the file into its place; returns whether there is one."""
        if self._file is None:
            return False
        try:
            self._file.close()
            if self._temporary is not None:
                if keep:
                    os.replace(self._temporary, self.path)
                else:
                    os.unlink(self._temporary)
        except OSError as error:
            raise self._failed(error) from error
        return keep

    def _failed(self, error: OSError) -> AtlasError:
        return AtlasError(
            f"cannot write the report {printable(str(self.path))}: {error.strerror}",
            hint="give another place with --report",
        )
