"""Tables in text: CSV, TSV and their relatives.

A quote that is never closed costs its own line: a record is taken as it stands only if it follows the rules
strictly; else its first line is read alone and reading goes on at the second. Lines are split here, not by
the csv module, so that one of any length costs bounded memory.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from atlas.importing.columns.fields import recognised
from atlas.importing.files.dialect import Head, look, split_lines
from atlas.importing.files.spool import Rows, table
from atlas.importing.files.text import BROKEN

#: Characters of the longest record, and lines that one may go over.
RECORD, LINES = 1 << 20, 10_000
#: Characters that the dialect is detected from.
_HEAD = 1 << 16
_BLANK = frozenset(("\n", "\r\n", "\r"))
_ID = re.compile(r"['\"]?(?:[A-Za-z0-9_-]{11}|.*[=/][A-Za-z0-9_-]{11}.*)['\"]?")
_TOO_LONG = f"longer than {RECORD:,} characters"


@contextmanager
def long_cells() -> Iterator[None]:
    """Let the csv module take cells of any length: its limit is one of the process, and ends the reading."""
    before = csv.field_size_limit(max(csv.field_size_limit(), 4 * RECORD))
    try:
        yield
    finally:
        csv.field_size_limit(before)


class Lines:
    """The lines of a text, with their ends; of one that is too long the beginning, marked."""

    def __init__(self, blocks: Iterator[str], head: str = "") -> None:
        self._blocks = blocks
        self._rest = head
        #: Whole lines that were not parted yet; those that come before them.
        self._text = ""
        self._waiting: deque[str] = deque()
        self._ended = False
        self._strays = False
        self.number = 0

    def take_back(self, lines: Sequence[str]) -> None:
        """Put lines back that were taken last."""
        self._strays = True
        self._waiting.extendleft(reversed(lines))
        self.number -= len(lines)

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        while not self._waiting:
            if not self._text:
                if self._ended:
                    raise StopIteration
                self._fill()
            self._part()
        self.number += 1
        return self._waiting.popleft()

    def block(self) -> tuple[str, int]:
        """The lines at hand and how many; none where some were taken back, or one is too long."""
        if not self._waiting:
            self._strays = False
            if not self._text and not self._ended:
                self._fill()
        text = "".join(self._waiting) or self._text
        if self._strays or not text:
            return "", 0
        if len(text) > RECORD and _longest(split_lines(text)) > RECORD:
            self._part()
            return "", 0
        if self._waiting:
            self._waiting.clear()
        else:
            self._text = ""
        count = _count(text)
        self.number += count
        return text, count

    def _part(self) -> None:
        """Part the text into lines."""
        lines = split_lines(self._text)
        if _longest(lines) > RECORD:
            lines = [one if len(one) <= RECORD else one[:RECORD] + _MARK for one in lines]
        self._waiting.extend(lines)
        self._text = ""

    def _fill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
            self._text, self._rest = self._rest, ""
            return
        text = self._rest + block
        end = text.rfind("\n") + 1
        if not end and "\r" in text:
            # "\r" ends lines, but for the last: that may be half of an end
            end = len(text) - len(split_lines(text)[-1])
        elif not end and len(text) > RECORD:
            # the rest of the line does not matter any more
            self._rest = text[:RECORD] + _MARK if _MARK not in text else text[: RECORD + 1]
            return
        self._text, self._rest = text[:end], text[end:]


def _longest(lines: Sequence[str]) -> int:
    return max(map(len, lines), default=0)


def _count(text: str) -> int:
    """How many lines a text has."""
    if "\r" in text and text.count("\r") != text.count("\r\n"):
        return len(split_lines(text))
    return text.count("\n") + (not text.endswith("\n"))


#: Ends what is left of a line that was too long: no text has it.
_MARK = "\ufffe"


def unique(header: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each once and none empty."""
    seen: dict[str, int] = {}
    names = []
    for place, name in enumerate(header, start=1):
        name = name.replace("\0", "").replace(BROKEN, "\ufffd") or f"column {place}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(names)


def read_delimited(
    blocks: Iterator[str],
    *,
    delimiter: str | None = None,
    columns: Mapping[str, str] | None = None,
    found: Callable[[Head], None] = lambda head: None,
    source: int = 0,
) -> Iterator[pa.Table]:
    """The rows of a text in batches; ``found`` receives the dialect and the header."""
    text = ""
    for block in blocks:
        text += block
        if len(text) >= _HEAD:
            break
    head = look(text[:_HEAD], delimiter, columns or {})
    found(head)
    lines = Lines(blocks, text)
    for _ in range(head.lines):
        next(lines)
    with long_cells():
        yield from _Reader(lines, head, source).batches()


class _Reader:
    """Reads records, and mends what strays."""

    def __init__(self, lines: Lines, head: Head, source: int) -> None:
        self._lines = lines
        self._dialect = head.dialect
        self._header = head.header
        self._width = len(head.header)
        self._rows = Rows(unique(head.header), source)
        self._pulled: list[str] = []
        self._size = 0
        names = recognised(head.header).get("video_id", [])
        self._ids = [head.header.index(name) for name in names]
        self._special = [one for one in (head.dialect.quote, head.dialect.escape) if one]

    def batches(self) -> Iterator[pa.Table]:
        """Every row, in order."""
        # the header itself is read as any record is, since it may go over lines
        next(self._dialect.reader(self._feed()), None)
        while True:
            text, count = self._lines.block()
            begins = self._lines.number - count + 1
            if text and (quick := self._quick(text, count, begins)) is not None:
                if self._rows.lines:
                    yield self._rows.batch()
                if quick.num_rows:
                    yield quick
            elif text and not self._take_block(block := split_lines(text), begins):
                self._lines.take_back(block)
            elif not text and not self._take_record():
                break
            if self._rows.is_full():
                yield self._rows.batch()
        if self._rows.lines:
            yield self._rows.batch()

    def _quick(self, text: str, count: int, begins: int) -> pa.Table | None:
        """The rows of lines without quotes, by Arrow; None where one is not as all are."""
        if any(one in text for one in self._special) or not self._dialect.delimiter.isascii():
            return None
        if not text.strip("\r\n"):
            return table(dict.fromkeys(self._rows.header, ()), (), {}, self._rows.source)
        found = self._parsed(text)
        numbers: Sequence[int] = range(begins, begins + count)
        if found is not None and found.num_rows < count:
            # blank lines are none
            numbered = zip(numbers, split_lines(text), strict=True)
            numbers = [number for number, line in numbered if line not in _BLANK]
        if found is None or found.num_rows != len(numbers):
            return None
        if len(numbers):
            first = found.column(0)
            unusual = pc.or_(pc.equal(first, ""), pc.equal(first, self._header[0]))
            if pc.any(unusual).as_py():
                return None
        return table(
            {name: found[name] for name in found.column_names}, numbers, {}, self._rows.source
        )

    def _parsed(self, text: str) -> pa.Table | None:
        """The lines as Arrow reads them."""
        names = self._rows.header
        try:
            return pyarrow.csv.read_csv(
                pa.BufferReader(text.encode()),
                pyarrow.csv.ReadOptions(
                    column_names=names, use_threads=False, block_size=len(text) * 4 + 1024
                ),
                pyarrow.csv.ParseOptions(delimiter=self._dialect.delimiter, quote_char=False),
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
                ),
            )
        except (pa.ArrowInvalid, UnicodeEncodeError):
            return None

    def _take_block(self, block: list[str], begins: int) -> bool:
        """Lines that are a record each, by the rules; False, and none is taken, where one is not."""
        try:
            rows = list(self._dialect.reader(block))
        except csv.Error:
            return False
        if len(rows) != len(block):
            return False
        for at, row in enumerate(rows, start=begins):
            self._take(at, row, ())
        return True

    def _feed(self) -> Iterator[str]:
        for line in self._lines:
            self._pulled.append(line)
            self._size += len(line)
            if len(self._pulled) > LINES or self._size > RECORD:
                raise _Stray
            yield line

    def _take_record(self) -> bool:
        """One record, over as many lines as it goes. False at the end."""
        self._pulled, self._size = [], 0
        begins = self._lines.number + 1
        try:
            row: list[str] | None = next(self._dialect.reader(self._feed()), None)
        except (csv.Error, _Stray):
            self._mend(begins)
            return True
        if row is None:
            return False
        if len(self._pulled) > 1 and self._has_swallowed():
            self._mend(begins)
        else:
            self._take(begins, row, self._pulled)
        return True

    def _has_swallowed(self) -> bool:
        """Whether a line inside of the record is a row by itself, with an id where ids are."""
        for line in self._pulled[1:]:
            if self._dialect.delimiter not in line and self._width > 1:
                continue
            try:
                row: list[str] = next(self._dialect.reader([line]), [])
            except csv.Error:
                row = self._dialect.alone(line)
            if len(row) == self._width > 1 and any(_ID.fullmatch(row[at]) for at in self._ids):
                return True
        return False

    def _mend(self, begins: int) -> None:
        """Read the first line alone, and put the others back."""
        first, *others = self._pulled
        self._lines.take_back(others)
        if _MARK in first:
            self._rows.broken(begins, _TOO_LONG, [first[:1000]])
            return
        row = self._dialect.alone(first)
        if len(row) != self._width:
            try:
                row = next(self._dialect.reader([first], strict=False), [])
            except csv.Error:
                row = []
        if len(row) == self._width:
            self._take(begins, row, ())
        else:
            self._rows.broken(
                begins, "a quote that is not closed or not doubled", [first.rstrip("\r\n")]
            )

    def _take(self, line: int, row: list[str], pulled: Sequence[str]) -> None:
        width = self._width
        if len(row) > width and not any(row[width:]):
            row = row[:width]
        if len(row) == width:
            if any(row):
                self._rows.lines.append(line)
                self._rows.cells.append(row)
                self._rows.characters += sum(map(len, row))
                if row[0] == self._header[0] and tuple(one.strip() for one in row) == self._header:
                    self._rows.lines.pop()
                    self._rows.cells.pop()
                    self._rows.broken(line, "the header once more", row, skipped=True)
        elif any(row):
            self._rows.broken(line, f"{len(row)} cells, the header has {width}", row)


class _Stray(Exception):
    """A record that does not end where records do."""
