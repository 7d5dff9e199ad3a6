"""The protocol keeps its promises in every state that a scenario can reach."""

from __future__ import annotations

import os

import pytest

from tests.model.explorer import Explorer, System
from tests.model.scenario import search
from tests.model.scenarios import SCENARIOS, WIDE

WANTED = SCENARIOS | (WIDE if "ATLAS_CHAOS" in os.environ else {})


@pytest.mark.timeout(3600 if "ATLAS_CHAOS" in os.environ else 240)
@pytest.mark.parametrize("name", WANTED)
def test_every_reachable_state_keeps_the_promises(name: str) -> None:
    found = search(WANTED[name])
    print(f"{name}: {found}")
    assert not found.traces, f"{name}\n{found}"
    assert found.complete, f"{name} was not searched whole: {found}"


def _counting(limit: int) -> System[int, int]:
    """Numbers from 0 that go one or two up; 7 is wrong, and so is a step of two from 4."""

    def successors(state: int) -> list[tuple[str, int]]:
        return [(f"+{more}", state + more) for more in (1, 2) if state + more <= limit]

    return System(
        0,
        successors,
        lambda state: (state, ["seven"] if state == 7 else []),
        lambda before, after: ["4 to 6"] if (before, after) == (4, 6) else [],
    )


def test_a_search_finds_the_shortest_way_to_each_violation() -> None:
    found = Explorer(_counting(8)).search()
    assert found.traces == {"seven": ("+1", "+2", "+2", "+2"), "4 to 6": ("+2", "+2", "+2")}
    assert found.complete


def test_nothing_is_expanded_behind_a_violation() -> None:
    found = Explorer(_counting(9)).search()
    # 8 by two from 6, 9 from 8 alone
    assert (found.states, found.depth) == (10, 5)


def test_a_search_that_is_too_large_says_that_it_was_cut() -> None:
    found = Explorer(_counting(1000), most=5).search()
    assert not found.complete
    assert "CUT" in str(found)
