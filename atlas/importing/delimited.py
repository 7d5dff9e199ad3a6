"""Tables in text: CSV, TSV and their relatives.

A quote that is never closed costs its own line: a record is taken as it stands only if it follows the rules
strictly; else its first line is read alone and reading goes on at the second. Lines are split here, not by
the csv module, so that one of any length costs bounded memory.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from atlas.errors import InvalidInput
from atlas.importing.fields import normalised, recognised
from atlas.importing.spool import Rows, table
from atlas.importing.text import BROKEN, printable

#: Characters of the longest record, and lines that one may go over.
RECORD, LINES = 1 << 20, 10_000
#: Text that the dialect is told from, and lines among which the header is looked for.
_HEAD, _HEADER_LINES = 1 << 16, 30
_BLANK = frozenset(("\n", "\r\n", "\r"))
_USUAL = (",", "\t", ";", "|")
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\s*$", re.IGNORECASE)
_ID = re.compile(r"['\"]?(?:[A-Za-z0-9_-]{11}|.*[=/][A-Za-z0-9_-]{11}.*)['\"]?")
_TOO_LONG = f"longer than {RECORD:,} characters"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How cells are set apart and quoted (``quote`` empty: not at all)."""

    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None
    spaced: bool = False

    def reader(self, lines: Any, *, strict: bool = True) -> Any:
        """A csv reader of this dialect."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            doublequote=self.escape is None,
            escapechar=self.escape,
            skipinitialspace=self.spaced,
            strict=strict,
        )

    def alone(self, line: str) -> list[str]:
        """The cells of one line whose quotes are nothing but characters."""
        return next(iter(csv.reader([line], delimiter=self.delimiter, quoting=csv.QUOTE_NONE)), [])

    def described(self) -> str:
        """In words."""
        name = {"\t": "tab", " ": "space"}.get(self.delimiter, printable(self.delimiter))
        quotes = "" if self.quote == '"' else f", quotes {self.quote or 'none'}"
        return f"delimiter {name}{quotes}" + (f", escapes {self.escape}" if self.escape else "")


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
            if self._ended:
                raise StopIteration
            self._fill()
        self.number += 1
        return self._waiting.popleft()

    def block(self) -> list[str]:
        """All lines at hand; nothing where some were taken back, or one is too long."""
        if not self._waiting and not self._ended:
            self._strays = False
            self._fill()
        lines = list(self._waiting)
        if self._strays or not lines or any(len(line) > RECORD for line in lines):
            return []
        self._waiting.clear()
        self.number += len(lines)
        return lines

    def _fill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            self._ended = True
            if self._rest:
                self._waiting.extend(_split(self._rest))
                self._rest = ""
            return
        text = self._rest + block
        if len(text) > RECORD and "\n" not in text and "\r" not in text:
            # the rest of the line does not matter any more
            self._rest = text[:RECORD] + _MARK if _MARK not in text else text[: RECORD + 1]
            return
        lines = _split(text)
        # the last line may go on, and "\r" may be half of an end
        self._rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        self._waiting.extend(one if len(one) <= RECORD else one[:RECORD] + _MARK for one in lines)


#: Ends what is left of a line that was too long: no text has it.
_MARK = "\ufffe"


def _split(text: str) -> list[str]:
    return list(io.StringIO(text, newline=""))


@dataclass(frozen=True, slots=True)
class Head:
    """What the beginning of a text says: its dialect, its header, and in which line that stands."""

    dialect: Dialect
    header: tuple[str, ...]
    lines: int


def look(head: str, delimiter: str | None, columns: Mapping[str, str]) -> Head:
    """Tell dialect and header from the beginning of the text. Raises `InvalidInput` where there is none."""
    lines = _split(head)
    skipped = 0
    while lines and not lines[0].strip():
        lines.pop(0)
        skipped += 1
    if not lines:
        raise InvalidInput("there is no line with text", field="file")
    if match := _SEP.fullmatch(lines[0].rstrip("\r\n")):
        delimiter = delimiter or match[1]
        lines.pop(0)
        skipped += 1
    delimiters = (delimiter,) if delimiter else _delimiters(lines)
    best: tuple[tuple[float, ...], Head] | None = None
    for preference, one in enumerate(delimiters):
        for variant, dialect in enumerate(_variants(one, head)):
            score, place, header = _fit(lines, dialect, columns)
            found = Head(dialect, header, skipped + place)
            ranked = (*score, -variant, -preference)
            if header and (best is None or ranked > best[0]):
                best = ranked, found
    if best is None:
        raise InvalidInput("no header was found: the first line names the columns", field="file")
    return best[1]


def _delimiters(lines: Sequence[str]) -> list[str]:
    """The usual ones, and whatever else stands between words of the first lines."""
    first = "".join(lines[:3])
    others = [
        one
        for one in dict.fromkeys(first)
        if not one.isalnum() and one not in "\"'\r\n_-.\\/()#" and one not in _USUAL
    ]
    return [*_USUAL, *others[:12]]


def _variants(delimiter: str, head: str) -> Iterator[Dialect]:
    plain = Dialect(delimiter)
    yield plain
    if f'{delimiter} "' in head and not delimiter.isspace():
        yield replace(plain, spaced=True)
    if "\\" in head:
        yield replace(plain, escape="\\")
    if "'" in head:
        yield replace(plain, quote="'")
        if "\\" in head:
            yield replace(plain, quote="'", escape="\\")
    if '"' in head:
        yield replace(plain, quote="")


def _fit(
    lines: Sequence[str], dialect: Dialect, columns: Mapping[str, str]
) -> tuple[tuple[float, ...], int, tuple[str, ...]]:
    """How well a dialect fits the first lines, the line of the header, and the header."""
    rows: list[tuple[int, list[str]]] = []
    reader = dialect.reader(lines[:100])
    while True:
        begins = reader.line_num
        try:
            row: list[str] = next(reader)
        except StopIteration:
            break
        except csv.Error:
            continue
        if row:
            rows.append((begins, row))
    wanted = {normalised(one) for one in columns.values()}
    best: tuple[tuple[float, ...], int] | None = None
    for at, (_, row) in enumerate(rows[:_HEADER_LINES]):
        names = _names(row)
        known = recognised(names)
        told = sum(normalised(one) in wanted for one in names)
        score = (float(told), "video_id" in known, float(len(known)), -at)
        if any(names) and (best is None or score > best[0]):
            best = score, at
    if best is None:
        return (0.0,), 0, ()
    at = best[1]
    place, row = rows[at]
    # line by line, so that a quote which is never closed says nothing of the others
    following = [line for line in lines[place + 1 : 100] if line.strip()]
    share = sum(_width(line, dialect) == len(row) for line in following) / max(1, len(following))
    # a quote here and there that is none makes no table without quotes; cells that keep theirs were not read
    cells = [cell for _, one in rows for cell in one if cell]
    kept = sum(cell[0] in "\"'" and cell[0] == cell[-1] for cell in cells) / max(1, len(cells))
    fit = round(share - 0.3 * kept, 2) - (0.0 if dialect.quote else 0.2)
    if dialect.escape and _escapes(lines, dialect.quote):
        fit += 0.05
    return (*best[0][:3], fit, float(len(row))), place, _names(row)


def _escapes(lines: Sequence[str], quote: str) -> bool:
    """Whether quotes in cells are escaped, and none is doubled."""
    text = "".join(lines[:100])
    inside = text.replace(f"{quote}{quote}\n", "").replace(f"{quote * 2}\r", "")
    doubled = re.search(f"[^{quote}\\W]{quote * 2}[^{quote}\\W]", inside)
    return f"\\{quote}" in text and doubled is None


def _width(line: str, dialect: Dialect) -> int:
    try:
        return len(next(dialect.reader([line]), []))
    except csv.Error:
        return -1


def _names(row: Sequence[str]) -> tuple[str, ...]:
    return tuple(one.strip().strip("\ufeff").strip() for one in row)


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
    """The rows of a text in batches; ``found`` is told the dialect and the header."""
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
            block = self._lines.block()
            begins = self._lines.number - len(block) + 1
            if block and (quick := self._quick(block, begins)) is not None:
                if self._rows.lines:
                    yield self._rows.batch()
                if quick.num_rows:
                    yield quick
            elif block and not self._take_block(block, begins):
                self._lines.take_back(block)
            elif not block and not self._take_record():
                break
            if self._rows.is_full():
                yield self._rows.batch()
        if self._rows.lines:
            yield self._rows.batch()

    def _quick(self, block: list[str], begins: int) -> pa.Table | None:
        """The rows of lines without quotes, by Arrow; None where one is not as all are."""
        text = "".join(block)
        if any(one in text for one in self._special) or not self._dialect.delimiter.isascii():
            return None
        names = self._rows.header
        numbers: Sequence[int] = range(begins, begins + len(block))
        if any(one in text for one in ("\n\n", "\n\r", "\r\r")) or text[0] in "\r\n":
            kept = [one for one in zip(numbers, block, strict=True) if one[1] not in _BLANK]
            numbers, text = [one[0] for one in kept], "".join(one[1] for one in kept)
            if not kept:
                return table(dict.fromkeys(names, ()), (), {}, self._rows.source)
        try:
            found = pyarrow.csv.read_csv(
                io.BytesIO(text.encode()),
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
        first = found.column(0)
        unusual = pc.or_(pc.equal(first, ""), pc.equal(first, self._header[0]))
        if found.num_rows != len(numbers) or pc.any(unusual).as_py():
            return None
        return table({name: found[name] for name in names}, numbers, {}, self._rows.source)

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
