"""Moments as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atlas.cli.spans import moment_of, span_of
from atlas.errors import InvalidInput

NOW = datetime(2026, 3, 1, 13, 30, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("7d", datetime(2026, 2, 22, 13, 30, 5, tzinfo=UTC)),
        ("24h", datetime(2026, 2, 28, 13, 30, 5, tzinfo=UTC)),
        ("90min", datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)),
        (" 2W ", datetime(2026, 2, 15, 13, 30, 5, tzinfo=UTC)),
        ("now", NOW),
        ("today", datetime(2026, 3, 1, tzinfo=UTC)),
        ("Yesterday", datetime(2026, 2, 28, tzinfo=UTC)),
        ("2026-01-15", datetime(2026, 1, 15, tzinfo=UTC)),
        ("2026-01-15T12:00", datetime(2026, 1, 15, 12, tzinfo=UTC)),
        ("2026-01-15T12:00:00+02:00", datetime(2026, 1, 15, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_is_what_people_mean_by_it(text: str, moment: datetime) -> None:
    assert moment_of(text, "since", NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "7", "7m", "-7d", "next week", "2026-13-01", "999999w", "7d ago"]
)
def test_what_is_no_time_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(InvalidInput, match="yesterday") as caught:
        moment_of(text, "since", NOW)
    assert caught.value.field == "since"


def test_a_span_has_something_in_it() -> None:
    assert span_of(None, None) == (None, None)
    with pytest.raises(InvalidInput, match="not before"):
        span_of("today", "yesterday")
