"""The dialect of a table in text, and its header, by what the first lines say."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from atlas.errors import InvalidInput
from atlas.importing.columns.fields import normalised, recognised
from atlas.importing.files.text import printable

#: Lines among which the header is looked for.
_HEADER_LINES = 30
_USUAL = (",", "\t", ";", "|")
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\s*$", re.IGNORECASE)


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


def split_lines(text: str) -> list[str]:
    """The lines of a text, with their ends."""
    return list(io.StringIO(text, newline=""))


@dataclass(frozen=True, slots=True)
class Head:
    """What the beginning of a text says: its dialect, its header, and in which line that stands."""

    dialect: Dialect
    header: tuple[str, ...]
    lines: int


def look(head: str, delimiter: str | None, columns: Mapping[str, str]) -> Head:
    """Detect dialect and header from the beginning of the text. Raises `InvalidInput` where there is none."""
    lines = split_lines(head)
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
            if one == " " and score[-2:-1] < (0.5,):
                continue  # words of a sentence
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
        mapped = sum(normalised(one) in wanted for one in names)
        score = (float(mapped), "video_id" in known, float(len(known)), -at)
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
