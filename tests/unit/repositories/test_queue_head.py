"""Where claims of a busy process begin, by a clock of the tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atlas.repositories import leases
from atlas.repositories.leases import Head

_START = datetime(2026, 1, 1, tzinfo=UTC)


def _at(minute: int) -> datetime:
    return _START + timedelta(minutes=minute)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leases, "time", clock)
    return clock


@pytest.fixture
def head(clock: Clock) -> Head:
    """One that has claimed enough, from the beginning, in 0.1 s each time."""
    head = Head()
    for minute in range(10):
        assert head.start() is None
        head.found(None, _at(minute), 1000, 0.1)
    return head


def test_a_busy_process_starts_where_it_last_found_something(head: Head) -> None:
    assert head.start() == _at(9)
    head.found(_at(9), _at(10), 50, 0.1)
    assert head.start() == _at(10)


def test_one_claim_looks_from_the_beginning_after_fifty_times_what_that_takes(
    head: Head, clock: Clock
) -> None:
    clock.now += 0.1 * 50 - 0.01
    assert head.start() == _at(9)
    clock.now += 0.02
    assert head.start() is None
    assert head.start() == _at(9)  # while that one looks
    head.found(None, _at(3), 50, 0.2)
    assert head.start() == _at(3)  # it found what was released
    clock.now += 0.2 * 50 - 0.01
    assert head.start() == _at(3)


def test_what_began_elsewhere_leads_past_no_earlier_row(head: Head, clock: Clock) -> None:
    since = head.start()
    clock.now += 6
    assert head.start() is None
    head.found(None, _at(3), 50, 0.1)
    head.found(since, _at(11), 50, 0.1)
    assert head.start() == _at(3)


def test_one_that_found_nothing_is_busy_no_more(head: Head) -> None:
    head.found(head.start(), None, 0, 0.1)
    assert head.start() is None
    head.found(None, _at(11), 50, 0.1)
    assert head.start() is None
