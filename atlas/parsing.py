"""What collectors deliver, in the types of Atlas: counters as text, times without a zone.

One set of rules for the database's side and the vault's. What cannot be taken raises `InvalidInput`
naming row and field; nothing is guessed.
"""

from __future__ import annotations

import math
import numbers
from datetime import UTC, date, datetime, timedelta

from atlas.errors import InvalidInput
from atlas.types import utc

#: Largest counter that PostgreSQL's bigint and Parquet's int64 hold.
MAX_COUNTER = 2**63 - 1
#: Days of the longest age that anything is asked for by.
MAX_DAYS = 36_500


def parse_counter(value: object, *, field: str, row: int | None = None) -> int | None:
    """A counter from a whole number or its decimal digits; None stays None.

    Anything else raises `InvalidInput`: signs and separators, fractions, NaN, truth values, blanks.
    """
    if value is None:
        return None
    number: int | None = None
    if isinstance(value, str):
        if value.isascii() and value.strip().isdecimal() and len(value) < 40:
            number = int(value)
    elif isinstance(value, bool):
        pass  # an int to Python, but no counter
    elif isinstance(value, numbers.Integral):  # numpy's too
        number = int(value)
    elif isinstance(value, numbers.Real) and float(value).is_integer():
        number = int(float(value))
    if number is None or not 0 <= number <= MAX_COUNTER:
        raise invalid(value, field, row, "counters are whole numbers from 0 to 2^63 - 1")
    return number


def parse_moment(value: object, *, field: str, row: int | None = None) -> datetime | None:
    """A UTC time from a datetime or ISO 8601 text; without a zone it is UTC; None stays None."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise invalid(value, field, row, "write times as 2026-01-15T12:00:00Z") from None
    # pandas' NaT is a datetime too, one that has no year
    if not isinstance(value, datetime) or not isinstance(value.year, int):
        raise invalid(value, field, row, "give a datetime or ISO 8601 text")
    try:
        moment = value.replace(tzinfo=UTC) if value.utcoffset() is None else value.astimezone(UTC)
    except OverflowError:
        raise invalid(value, field, row, "this is outside the calendar in UTC") from None
    # plain and in microseconds, also where a subclass counts nanoseconds
    return datetime.combine(moment.date(), moment.time(), UTC)


def parse_boundary(value: object, *, field: str) -> datetime | None:
    """A boundary of time given by a person or a program: an aware datetime, a date (its midnight in UTC)
    or ISO 8601 text (UTC where it has no zone); None stays None."""
    if isinstance(value, datetime):
        return utc(value, field=field)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return parse_moment(value, field=field)


def parse_age(days: object, *, field: str) -> timedelta:
    """A number of days, from 0 to 100 years."""
    if isinstance(days, numbers.Real) and not isinstance(days, bool):
        number = float(days)
        if math.isfinite(number) and 0 <= number <= MAX_DAYS:
            return timedelta(days=number)
    raise invalid(days, field, None, f"give a number of days from 0 to {MAX_DAYS}")


def invalid(value: object, field: str, row: int | None, hint: str) -> InvalidInput:
    """The error for a value that cannot be taken."""
    where = "" if row is None else f" in row {row}"
    return InvalidInput(
        f"{field}{where} cannot be taken: {value!r:.80}",
        row=row,
        field=field,
        value=value,
        hint=hint,
    )
