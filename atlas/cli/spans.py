"""Moments as people type them: a date, a time, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

from atlas.errors import InvalidInput
from atlas.parsing import parse_boundary

_AGO = re.compile(r"(\d{1,6})\s*(min|h|d|w)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_FORMS = "2026-01-15, 2026-01-15T12:00, 7d, 24h, 90min, 2w, now, today, yesterday"

SINCE = typer.Option(
    None, "--since", metavar="TIME", help=f"From this time on (UTC): {_FORMS}.", show_default=False
)
UNTIL = typer.Option(
    None, "--until", metavar="TIME", help="Before this time (UTC).", show_default=False
)


def moment_of(text: str | None, field: str, now: datetime | None = None) -> datetime | None:
    """The moment that an option means; a day is its beginning in UTC, ``7d`` seven days ago.

    Raises `InvalidInput`.
    """
    if text is None:
        return None
    now = now or datetime.now(UTC)
    said = text.strip().lower()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": today, "yesterday": today - timedelta(days=1)}
    if said in named:
        return named[said]
    try:
        if ago := _AGO.fullmatch(said):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return parse_boundary(text, field=field)
    except (InvalidInput, OverflowError) as error:
        raise InvalidInput(
            f"--{field} {text!r:.80} is no time",
            field=field,
            value=text,
            hint=f"write one of {_FORMS}",
        ) from error


def span_of(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Both ends, as of one moment. Raises `InvalidInput` where nothing lies between them."""
    now = datetime.now(UTC)
    first, last = moment_of(since, "since", now), moment_of(until, "until", now)
    if first is not None and last is not None and first >= last:
        raise InvalidInput(
            f"--since {since} is not before --until {until}", field="since", value=since
        )
    return first, last
