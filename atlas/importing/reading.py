"""Reading files into a temporary one: rows as text, in groups of equal columns."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from atlas.importing.columns.surveying import Group
from atlas.importing.files.columnar import read_parquet
from atlas.importing.files.delimited import read_delimited
from atlas.importing.files.dialect import Head
from atlas.importing.files.documents import is_json, values
from atlas.importing.files.payloads import records
from atlas.importing.files.sources import NoTable, Source, broken_as_input, opened
from atlas.importing.files.spool import Rows, Spool
from atlas.importing.files.text import Decoded, printable
from atlas.importing.options import Options
from atlas.importing.report import LEADING, as_it_was


@dataclass(slots=True)
class Reading:
    """What has been read; ``count`` receives the number of bytes."""

    spool: Spool
    options: Options
    count: Callable[[int], None]
    names: list[str] = field(default_factory=list)
    groups: dict[int, Group] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _by_name: dict[str, int] = field(default_factory=dict)
    _records: dict[str, Rows] = field(default_factory=dict)

    def read(self, path: Path, *, lenient: bool) -> None:
        """Read a file. Raises `InvalidInput`; with ``lenient`` what is no table is noted instead."""
        try:
            with opened(path, self.count, lenient=lenient) as sources:
                for source in sources:
                    try:
                        self._read_source(source)
                    except NoTable as error:
                        if not source.lenient:
                            raise
                        self.notes.append(f"left out: {error.message}")
        except NoTable as error:
            if not lenient:
                raise
            self.notes.append(f"left out: {error.message}")

    def finish(self) -> None:
        """Put what waits for more of its kind into the spool."""
        for name, rows in self._records.items():
            if rows.lines:
                self._add(name, rows.batch())

    def _add(self, name: str, batch: pa.Table) -> None:
        """Put a batch of a group into the spool."""
        number = self._by_name.setdefault(name, len(self._by_name))
        group = self.groups.setdefault(number, Group(name))
        group.see(batch)
        self.spool.add(batch, number)

    def _read_source(self, source: Source) -> None:
        number = len(self.names)
        self.names.append(source.name)
        if source.refused is not None:
            raise source.refused
        head = source.head()
        with broken_as_input(source.name):
            if head.startswith(b"PAR1"):
                for batch in read_parquet(source.content, number):
                    self._add(",".join(batch.column_names), batch)
                self.notes.append(f"{printable(source.name)}: Parquet")
                return
            text = Decoded(source.content, self.options.encoding)
            blocks = iter(text)
            first = next((block for block in blocks if block.strip()), "")
            if not first:
                raise NoTable(
                    f"{printable(source.name)} has no text", field="file", value=source.name
                )
            chained = itertools.chain((first,), blocks)
            if is_json(first):
                self._read_json(chained, number)
                shape = "JSON"
            else:
                shape = self._read_text(chained, number)
        self.notes.append(f"{printable(source.name)}: {shape}, {text.encoding}")

    def _read_json(self, blocks: Iterator[str], number: int) -> None:
        for value in values(blocks):
            if value.reason is not None:
                rows = self._records.setdefault("json", Rows())
                rows.source = number
                rows.broken(value.line, value.reason, [value.text])
                continue
            for record in records(value.value):
                name = "yt-dlp" if "extractor" in record.cells else "json"
                rows = self._records.setdefault(name, Rows())
                rows.source = number
                if record.reason is not None:
                    rows.odd(value.line, record.cells, record.reason, skipped=record.skipped)
                else:
                    rows.add(value.line, record.cells)
                if rows.is_full():
                    self._add(name, rows.batch())

    def _read_text(self, blocks: Iterator[str], number: int) -> str:
        heads: list[Head] = []
        batches = read_delimited(
            blocks,
            delimiter=self.options.delimiter,
            columns=self.options.columns,
            found=heads.append,
            source=number,
        )
        for batch in batches:
            is_report = heads[0].header[:4] == LEADING
            if is_report:
                batch = as_it_was(batch)
            self._add("\0".join(map(str, (*heads[0].header, is_report))), batch)
        (head,) = heads
        return f"text, {head.dialect.described()}"
