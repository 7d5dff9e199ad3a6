"""Rows as text, in batches, and the temporary file that holds them between reading and loading.

Formats are decided from whole columns, so every row is read before the first is understood. The file is
Arrow's stream format, one stream a batch, since later rows of JSON may have further columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

#: Columns that every batch has: the number of the source, where the row begins, and why it is none (null: it
#: is one). Columns of files have no NUL in their names.
SOURCE, LINE, REASON, SKIPPED = "\0source", "\0line", "\0reason", "\0skipped"
OWN = (SOURCE, LINE, REASON, SKIPPED)

#: Rows and characters of one batch: bounds memory.
ROWS, CHARACTERS = 8_192, 2 << 20
#: Columns that are kept of rows whose columns differ.
COLUMNS = 2_000


@dataclass(slots=True)
class Rows:
    """Rows being gathered into a batch, all with the same columns or each with its own."""

    header: tuple[str, ...] = ()
    source: int = 0
    sources: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    cells: list[Sequence[str | None]] = field(default_factory=list)
    records: list[Mapping[str, str | None]] = field(default_factory=list)
    reasons: dict[int, tuple[str, bool]] = field(default_factory=dict)
    characters: int = 0

    def broken(
        self, line: int, reason: str, cells: Sequence[str] = (), *, skipped: bool = False
    ) -> None:
        """Add what is no row: it is reported with as much of it as fits the columns."""
        width = len(self.header)
        kept = [one[:32_768] for one in cells[:width]]
        if len(cells) > width > 0:
            kept[-1] = "\t".join([kept[-1], *(one[:1000] for one in cells[width : width + 50])])
        self.reasons[len(self.lines)] = (reason, skipped)
        self.lines.append(line)
        if width:
            self.cells.append([*kept, *[None] * (width - len(kept))])
        else:
            self.sources.append(self.source)
            self.records.append({"text": cells[0][:32_768]} if cells else {})
        self.characters += sum(map(len, kept))

    def add(self, line: int, record: Mapping[str, str | None]) -> None:
        """Add a row with columns of its own."""
        self.lines.append(line)
        self.sources.append(self.source)
        self.records.append(record)
        self.characters += sum(len(value) for value in record.values() if value)

    def odd(
        self, line: int, record: Mapping[str, str | None], reason: str, *, skipped: bool
    ) -> None:
        """Add a record that is none, or of another kind."""
        self.reasons[len(self.lines)] = (reason, skipped)
        self.add(line, record)

    def is_full(self) -> bool:
        """Whether it is time for the next batch."""
        return len(self.lines) >= ROWS or self.characters >= CHARACTERS

    def batch(self) -> pa.Table:
        """The rows; empties this."""
        if self.header:
            columns = dict(zip(self.header, zip(*self.cells, strict=True), strict=True))
        else:
            names = dict.fromkeys(name for record in self.records for name in record)
            columns = {
                name: tuple(record.get(name) for record in self.records)
                for name in list(names)[:COLUMNS]
            }
        made = table(columns, self.lines, self.reasons, self.sources or self.source)
        self.sources, self.lines, self.cells, self.records, self.reasons = [], [], [], [], {}
        self.characters = 0
        return made


def table(
    columns: Mapping[str, Any],
    lines: Sequence[int],
    reasons: Mapping[int, tuple[str, bool]],
    source: int | Sequence[int],
) -> pa.Table:
    """A batch of columns of text."""
    made = {name: _text(values) for name, values in columns.items()}
    count = len(lines)
    if isinstance(source, int):
        made[SOURCE] = pa.repeat(pa.scalar(source, pa.int64()), count)
    else:
        made[SOURCE] = pa.array(source, pa.int64())
    made[LINE] = pa.array(lines, pa.int64())
    if reasons:
        said = [reasons.get(at) for at in range(count)]
        made[REASON] = pa.array([one and one[0] for one in said], pa.string())
        made[SKIPPED] = pa.array([bool(one and one[1]) for one in said], pa.bool_())
    else:
        made[REASON] = pa.nulls(count, pa.string())
        made[SKIPPED] = pa.repeat(pa.scalar(False), count)
    return pa.table(made)


def _text(values: Any) -> pa.Array:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, pa.string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        # half a surrogate pair: an escape in JSON that is no character
        mended = [one and one.encode("utf-8", "replace").decode() for one in values]
        return pa.array(mended, pa.string())


def release() -> None:
    """Give memory back that Arrow keeps for later: a batch needs what the one before it did."""
    pa.default_memory_pool().release_unused()


class Spool:
    """Batches in a temporary file, each with the number of the group that it belongs to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = pa.OSFile(str(path), "wb")
        self._options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._groups: list[int] = []
        self.rows = 0

    def add(self, batch: pa.Table, group: int = 0) -> None:
        """Append a batch."""
        with pa.ipc.new_stream(self._file, batch.schema, options=self._options) as stream:
            stream.write_table(batch)
        self._groups.append(group)
        self.rows += batch.num_rows
        release()

    def __iter__(self) -> Iterator[tuple[int, pa.Table]]:
        if not self._file.closed:
            self._file.close()
        with pa.OSFile(str(self._path), "rb") as file:
            for group in self._groups:
                with pa.ipc.open_stream(file) as stream:
                    yield group, stream.read_all()
