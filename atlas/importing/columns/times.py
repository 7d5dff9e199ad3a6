"""How the dates of a column are written, decided from the whole column.

What can be read in one way only is read: ISO 8601 and its relatives, seconds and milliseconds since 1970,
dates with the name of the month. Where the order of day, month and year has to be decided, the orders are
counted over the whole column (`Survey`); if two of them fit equally well and say different days, a person is
asked, by an error that names the option. Nothing is guessed. Times without a zone are UTC.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from atlas.errors import InvalidInput
from atlas.importing.files.text import printable

_ISO = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ]+(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?"
    r" ?(?:(Z|UTC|GMT)|([+-]\d\d):?(\d\d)?(?: UTC| GMT)?)?",
    re.IGNORECASE,
)
_EPOCH = re.compile(r"(\d{9,10})(?:\.(\d{1,9}))?|(\d{13})(?:\.0)?|(\d{16})|(\d{19})")
_COMPACT = re.compile(r"(\d{8})(?:[T ]?(\d{4}(?:\d\d)?))?(?:Z| ?UTC)?")
_PARTS = re.compile(
    r"(\d{1,4})([./-])(\d{1,2})\2(\d{1,4})"
    r"(?:,?[T ]+(\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?: ?([AaPp])\.?[Mm]\.?)?)?(?: ?(?:Z|UTC|GMT))?"
)
_PAIR = re.compile(r"(\d{1,2})([./-])(\d{1,2})")
_ZONE_WORD = re.compile(r"(?:,? ?(?:UTC|GMT|Z)|,? \+00:?00)$", re.IGNORECASE)
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b", re.IGNORECASE)
_HAS_YEAR = re.compile("%[YyGcxDsF]")
#: Dates with the name of the month; all of them are tried.
_DAYS = (
    *("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y"),
    *("%d-%b-%y", "%d/%b/%Y", "%d %b, %Y", "%d %B, %Y", "%Y-%b-%d", "%Y %b %d", "%d.%b.%Y"),
    *("%a, %d %b %Y", "%A, %B %d, %Y", "%a %b %d %Y", "%Y年%m月%d日", "%Y년 %m월 %d일"),
)
_CLOCKS = (
    *("", " %H:%M:%S", " %H:%M", ", %H:%M:%S", ", %I:%M:%S %p", " %I:%M:%S %p", " %I:%M %p"),
)
_NAMED = (
    *(f"{day}{clock}" for day in _DAYS for clock in _CLOCKS),
    *("%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%Y年%m月%d日%H:%M:%S"),
)
#: Orders of three numbers: the places of year, month and day, and the words for them.
_ORDERS = {
    "ymd": (0, 1, 2),
    "ydm": (0, 2, 1),
    "dmy": (2, 1, 0),
    "mdy": (2, 0, 1),
}
_CODES = {"y": "%Y", "m": "%m", "d": "%d"}
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Survey:
    """What a column holds, gathered value by value in bounded memory."""

    option: str = "--date-format"
    orders: dict[str, Counter[str]] = field(default_factory=dict)
    pairs: Counter[str] = field(default_factory=Counter)
    differing: dict[str, dict[frozenset[str], str]] = field(default_factory=dict)
    example: str = ""

    def see(self, values: Iterable[str]) -> None:
        """Take different values of the column into account."""
        for value in values:
            if len(value) > 40:
                continue
            if match := _PARTS.fullmatch(value):
                self._see_parts(value, match)
            elif match := _PAIR.fullmatch(value):
                self._see_pair(value, match)

    def _see_parts(self, value: str, match: re.Match[str]) -> None:
        shape = _shape(match)
        if shape is None:
            return
        days = {order: day for order in _ORDERS if (day := _in_order(match, order)) is not None}
        seen = self.orders.setdefault(shape, Counter())
        seen.update(days.keys())
        apart = self.differing.setdefault(shape, {})
        orders = sorted(days)
        for at, one in enumerate(orders):
            for other in orders[at + 1 :]:
                if days[one] != days[other]:
                    apart.setdefault(frozenset((one, other)), value)

    def _see_pair(self, value: str, match: re.Match[str]) -> None:
        first, second = int(match[1]), int(match[3])
        self.example = self.example or value
        self.pairs["all"] += 1
        self.pairs["day first"] += 1 <= second <= 12 and 1 <= first <= 31
        self.pairs["month first"] += 1 <= first <= 12 and 1 <= second <= 31
        self.pairs[f"separator {match[2]}"] += 1
        if len(match[3]) == 1:
            self.pairs["short"] += 1
            self.pairs["short but 1"] += second != 1
        elif match[3] in ("10", "20", "30"):
            self.pairs["zero kept"] += 1
        elif match[3][0] == "0":
            self.pairs["padded"] += 1

    def order_of(self, shape: str) -> str | None:
        """The order of three numbers of this shape; None: none fits. Raises `InvalidInput` to ask."""
        seen = self.orders.get(shape)
        if not seen:
            return None
        most = max(seen.values())
        best = [order for order in _ORDERS if seen[order] == most]
        if len(best) == 1 or (shape.startswith("4") and "ymd" in best):
            return best[0]
        apart = self.differing[shape]
        for at, one in enumerate(best):
            for other in best[at + 1 :]:
                if (value := apart.get(frozenset((one, other)))) is not None:
                    raise self._ask(shape, value, best)
        return best[0]

    def _ask(self, shape: str, value: str, orders: Sequence[str]) -> InvalidInput:
        match = _PARTS.fullmatch(value)
        assert match is not None
        separator = match[2]
        short = "4" not in shape
        choices = []
        for order in orders:
            day = _in_order(match, order)
            if day is not None:
                codes = separator.join(_CODES[one] for one in order)
                codes = codes.replace("%Y", "%y") if short else codes
                choices.append(f"{self.option} '{codes}{_clock(match)}' for {day:%d %B %Y}")
        return _question(
            self.option, f"{value} can be read in {len(choices)} ways", " or ".join(choices)
        )


def _question(option: str, what: str, hint: str) -> InvalidInput:
    return InvalidInput(
        f"the order of day and month cannot be detected from the column: {what}",
        field=option.removeprefix("--"),
        hint=hint,
    )


def _clock(match: re.Match[str]) -> str:
    if match[5] is None:
        return ""
    joint = "T" if "T" in match[0] else " "
    hour = "%I" if match[8] else "%H"
    return f"{joint}{hour}:%M" + (":%S" if match[7] else "") + (" %p" if match[8] else "")


def _shape(match: re.Match[str]) -> str | None:
    """Which of three numbers can be the year by its digits: 4??, ??4 or ??2."""
    first, last = len(match[1]), len(match[4])
    if first == 4 and last <= 2:
        return f"4{match[2]}"
    if last == 4 and first <= 2:
        return f"{match[2]}4"
    return f"{match[2]}2" if first <= 2 and last <= 2 else None


def _in_order(match: re.Match[str], order: str) -> datetime | None:
    """The moment that three numbers and a time of day mean in an order, or None."""
    parts = (match[1], match[3], match[4])
    at_year, at_month, at_day = _ORDERS[order]
    year = parts[at_year]
    if len(year) not in (2, 4) or any(len(parts[at]) > 2 for at in (at_month, at_day)):
        return None
    number = int(year)
    if len(year) == 2:
        if max(len(part) for part in parts) == 4:
            return None
        number += 2000 if number < 70 else 1900
    hour, minute, second = (int(match[at] or 0) for at in (5, 6, 7))
    if match[8]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[8].lower() == "p" else 0)
    with suppress(ValueError):
        return datetime(
            number, int(parts[at_month]), int(parts[at_day]), hour, minute, second, tzinfo=UTC
        )
    return None


def reader(
    survey: Survey, formats: Sequence[str] = (), year: int | None = None
) -> Callable[[str], datetime]:
    """What reads a value of the surveyed column; raises ValueError with the reason.

    ``formats`` are tried in order, as `datetime.strptime` reads them; ``year`` completes those without one.
    Raises `InvalidInput` where the column can be read in several ways.
    """
    check_formats(survey.option, formats, year)
    if formats:
        zero_lost = any(_bare(one) for one in formats) and _lost_zeros(survey, formats)
        return lambda value: parse_date(value, formats, year, zero_lost=zero_lost)
    orders = {shape: survey.order_of(shape) for shape in survey.orders}
    pair = _pair_format(survey, year)
    zero_lost = bool(pair) and _lost_zeros(survey, pair)

    def read(value: str) -> datetime:
        match = _PARTS.fullmatch(value)
        order = orders.get(_shape(match) or "") if match else None
        if match and order and order != "ymd":
            moment = _in_order(match, order)
        else:
            moment = plain(value) or (_in_order(match, order) if match and order else None)
        if moment is None and pair and _PAIR.fullmatch(value):
            return parse_date(value, pair, year, zero_lost=zero_lost)
        if moment is None:
            raise ValueError(
                f"not a date that is known; say how it is written with {survey.option}"
            )
        return moment

    return read


def _pair_format(survey: Survey, year: int | None) -> tuple[str, ...]:
    """The format of days without a year, where that is what the column holds."""
    if not survey.pairs["all"] or survey.orders:
        return ()
    example = printable(survey.example)
    day_first, month_first = survey.pairs["day first"], survey.pairs["month first"]
    separator = max("./-", key=lambda one: survey.pairs[f"separator {one}"])
    day, month = f"%d{separator}%m", f"%m{separator}%d"
    if year is None:
        both = (
            f"{survey.option} '{day}'" if day_first > month_first else f"{survey.option} '{month}'"
        )
        both = f"{both} or '{day}'" if day_first == month_first else both
        raise InvalidInput(
            f"the dates have no year: {example}",
            field=survey.option.removeprefix("--"),
            value=survey.example,
            hint=f"give --year, and {both}" if day_first == month_first else "give --year",
        )
    if day_first == month_first:
        raise _question(
            survey.option,
            f"{example} can be read in 2 ways",
            f"{survey.option} '{day}' or '{month}'",
        )
    return (day,) if day_first > month_first else (month,)


def _bare(one: str) -> bool:
    return one in ("%d.%m", "%d.%0m")


def _lost_zeros(survey: Survey, formats: Sequence[str]) -> bool:
    """Whether ``1.1`` is 1 October: as a decimal number ``01.10`` loses its zeros. The column says so.

    Other months written with their zero (``1.01``, ``13.09``) prove it, a ``1.10`` or ``1.2`` proves the
    contrary. Raises `InvalidInput` to ask where neither is there.
    """
    if "%d.%0m" in formats:
        return True
    seen = survey.pairs
    if "%d.%m" not in formats or not seen["short"] or seen["zero kept"]:
        return False
    if seen["padded"]:
        return True
    if seen["short but 1"]:
        return False
    raise InvalidInput(
        f"{printable(survey.example)} can be January, or October whose zero a spreadsheet dropped",
        field=survey.option.removeprefix("--"),
        value=survey.example,
        hint=f"{survey.option} '%d.%-m' for January or {survey.option} '%d.%0m' for October",
    )


def check_formats(option: str, formats: Sequence[str], year: int | None) -> None:
    """Raise `InvalidInput` for formats that cannot be."""
    for one in formats:
        if "%" not in one:
            raise InvalidInput(
                f"{option} {printable(one)} has no % code",
                field=option.removeprefix("--"),
                value=one,
                hint="such as %d.%m.%Y or %Y-%m-%d %H:%M",
            )
        if year is None and not _HAS_YEAR.search(one):
            raise InvalidInput(
                f"{option} {printable(one)} has no year",
                field=option.removeprefix("--"),
                value=one,
                hint="give --year",
            )


def parse_date(
    value: str, formats: Sequence[str], year: int | None, *, zero_lost: bool = True
) -> datetime:
    """The moment that ``value`` names in one of the formats (none: as `plain`). Raises ValueError."""
    if not formats:
        moment = plain(value)
        if moment is None:
            raise ValueError("not an ISO 8601 date; say how it is written with --date-format")
        return moment
    for one in formats:
        written = value
        if zero_lost and _bare(one) and re.fullmatch(r"\d{1,2}\.\d", value):
            written = f"{value}0"
        code = (
            one.replace("%0m", "%m").replace("%-m", "%m").replace("%-d", "%d").replace("%0d", "%d")
        )
        if not _HAS_YEAR.search(one):
            written, code = f"{written} {year}", f"{code} %Y"
        with suppress(ValueError, OverflowError):
            return _in_utc(datetime.strptime(written, code))
        with suppress(ValueError, OverflowError):
            return _in_utc(datetime.strptime(_ZONE_WORD.sub("", written), code))
    raise ValueError(f"does not fit the date format {' or '.join(map(printable, formats))}")


def plain(value: str) -> datetime | None:
    """The moment of a text that can be read in one way only, else None."""
    with suppress(ValueError, OverflowError):
        if match := _ISO.fullmatch(value):
            return _iso(match)
        if match := _EPOCH.fullmatch(value):
            return _epoch(match)
        if match := _COMPACT.fullmatch(value):
            clock = (match[2] or "").ljust(6, "0")
            return datetime.strptime(match[1] + clock, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if len(value) <= 60 and any(one.isalpha() for one in value):
            return _named(value)
    return None


def _iso(match: re.Match[str]) -> datetime:
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    fraction = int((match[7] or "0")[:6].ljust(6, "0"))
    clock = (int(match[4] or 0), int(match[5] or 0), int(match[6] or 0))
    if clock[2] == 60:  # a leap second is the second after
        moment = datetime(year, month, day, *clock[:2], 59, tzinfo=UTC) + timedelta(seconds=1)
    elif clock == (24, 0, 0):
        moment = datetime(year, month, day, tzinfo=UTC) + timedelta(days=1)
    else:
        moment = datetime(year, month, day, *clock, fraction, tzinfo=UTC)
    if match[9]:
        hours, minutes = int(match[9]), int(match[10] or 0)
        if abs(hours) > 15 or minutes > 59:
            raise ValueError("no such zone")
        moment -= timedelta(hours=hours, minutes=-minutes if match[9][0] == "-" else minutes)
    return moment


def _epoch(match: re.Match[str]) -> datetime:
    if match[1]:
        fraction = int((match[2] or "0")[:6].ljust(6, "0"))
        return _EPOCH_START + timedelta(seconds=int(match[1]), microseconds=fraction)
    if match[3]:
        return _EPOCH_START + timedelta(milliseconds=int(match[3]))
    return _EPOCH_START + timedelta(microseconds=int(match[4] or match[5][:16]))


def _named(value: str) -> datetime | None:
    text = " ".join(value.replace("\u202f", " ").replace("Sept ", "Sep ").split())
    text = _ORDINAL.sub("", text)
    for one in (text, _ZONE_WORD.sub("", text)):
        for code in _NAMED:
            with suppress(ValueError, OverflowError):
                return _in_utc(datetime.strptime(one, code))
    return None


def _in_utc(moment: datetime) -> datetime:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
