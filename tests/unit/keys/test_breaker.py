"""When a circuit opens, who probes, and how a project's pace follows the API's word."""

from __future__ import annotations

from datetime import timedelta

import pytest

from atlas.keys import pace
from atlas.keys.breaker import OPEN_FOR, PROBE_SECONDS, Breakers
from atlas.keys.pace import Pace
from tests.support.keys import NOON, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(clock)


def test_five_failures_in_a_row_open_a_circuit_and_an_answer_between_does_not(
    breakers: Breakers,
) -> None:
    for _ in range(4):
        breakers.failed("search")
    breakers.succeeded("search")
    for _ in range(4):
        breakers.failed("search")
    assert not breakers.is_open("search")
    breakers.failed("search")
    assert breakers.is_open("search")
    assert not breakers.is_open("general")
    assert breakers.unshared == {"search": True}


def test_half_of_twenty_in_half_a_minute_open_it_and_slower_ones_do_not(
    breakers: Breakers, clock: Clock
) -> None:
    for seconds, opens in ((3, False), (1, True)):
        opened = []
        for _ in range(10):
            breakers.succeeded("general")  # which closes it
            clock.time += timedelta(seconds=seconds)
            breakers.failed("general")
            opened.append(breakers.is_open("general"))
        assert any(opened) is opens


def test_one_probes_and_its_failure_opens_for_longer(breakers: Breakers, clock: Clock) -> None:
    for _ in range(5):
        breakers.failed("search")
    assert not breakers.claim_probe("search")
    clock.time += timedelta(seconds=OPEN_FOR)
    assert [breakers.claim_probe("search") for _ in range(3)] == [True, False, False]
    clock.time += timedelta(seconds=PROBE_SECONDS)
    assert breakers.claim_probe("search")  # the first was not answered
    breakers.failed("search", probe=True)
    assert breakers.seconds("search") == 2 * OPEN_FOR
    breakers.succeeded("search")
    assert not breakers.is_open("search")
    assert breakers.unshared == {"search": False}


def test_what_others_know_counts_but_for_what_they_do_not_know_yet(
    breakers: Breakers, clock: Clock
) -> None:
    breakers.learn({"search": NOON + timedelta(seconds=9)})
    assert breakers.seconds("search") == 9
    breakers.learn({})
    assert not breakers.is_open("search")
    for _ in range(5):
        breakers.failed("search")
    breakers.learn({})  # read before it was told
    assert breakers.is_open("search")
    breakers.shared("search", True)
    breakers.learn({})
    assert not breakers.is_open("search")


async def test_the_pace_halves_once_a_burst_and_grows_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    one = Pace()
    await one.acquire()
    assert one.rate is None
    for _ in range(60):
        one.note()
    assert one.refused(again=False, retry_after=None) == 60
    one.refused(again=True, retry_after=None)
    assert one.rate == 30
    assert one.refused(again=True, retry_after=7) == 7
    now += 61
    await one.acquire()
    assert one.rate == pytest.approx(33)
