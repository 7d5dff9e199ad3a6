"""Breadth-first search of a state space, with the shortest way to each violation."""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

State = TypeVar("State", bound=Hashable)
Facts = TypeVar("Facts")

#: A search that meets more states than this is cut, and a cut search fails.
MOST_STATES = 20_000_000 if "ATLAS_CHAOS" in os.environ else 40_000


class System(NamedTuple, Generic[State, Facts]):
    """What is searched, and what must hold.

    ``examine`` gives what is to be known of a state and the properties that it does not have; ``compare``
    those that a step from one state to another breaks.
    """

    start: State
    successors: Callable[[State], Iterable[tuple[str, State]]]
    examine: Callable[[State], tuple[Facts, Iterable[str]]]
    compare: Callable[[Facts, Facts], Iterable[str]]


@dataclass
class Found:
    """What a search found. ``traces`` has the shortest way to each violated property."""

    states: int = 0
    steps: int = 0
    depth: int = 0
    complete: bool = True
    traces: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        how = "complete" if self.complete else "CUT"
        lines = [f"{self.states} states, {self.steps} steps, depth {self.depth}, {how}"]
        for violated, trace in self.traces.items():
            lines += [f"violated: {violated}", *(f"{at:4}. {s}" for at, s in enumerate(trace, 1))]
        return "\n".join(lines)


class _Node(NamedTuple):
    parent: int | None
    label: str
    facts: Any
    depth: int


class Explorer(Generic[State, Facts]):
    """Visits every state that can be reached, nearest first; nothing is expanded behind a violation.

    States are told apart by their hashes of 64 bits, which are other ones in each process: that two of 20,000
    states share one has odds of one to 10^11.
    """

    def __init__(self, system: System[State, Facts], most: int = MOST_STATES) -> None:
        self.system, self.most = system, most
        self.found = Found()
        self._nodes: dict[int, _Node] = {}
        self._waiting: deque[tuple[State, int]] = deque()

    def search(self, *, first_only: bool = False) -> Found:
        """Search all of it, or with ``first_only`` to the first violation."""
        # states hold no cycles, and a collector that looks for some takes a sixth of the time
        gc.disable()
        try:
            return self._search(first_only)
        finally:
            gc.enable()

    def _search(self, first_only: bool) -> Found:
        found = self.found
        self._arrive(None, "", self.system.start)
        while self._waiting and not (first_only and found.traces):
            if len(self._nodes) > self.most:
                found.complete = False
                break
            state, name = self._waiting.popleft()
            found.depth = self._nodes[name].depth
            for label, after in self.system.successors(state):
                found.steps += 1
                self._arrive(name, label, after)
        found.states = len(self._nodes)
        return found

    def _arrive(self, parent: int | None, label: str, state: State) -> None:
        name = hash(state)
        node, wrong = self._nodes.get(name), ()
        if node is None:
            facts, wrong = self.system.examine(state)
            depth = 0 if parent is None else self._nodes[parent].depth + 1
            node = self._nodes[name] = _Node(parent, label, facts, depth)
            wrong = tuple(wrong)
            if not wrong:
                self._waiting.append((state, name))
        if parent is not None:
            wrong = (*wrong, *self.system.compare(self._nodes[parent].facts, node.facts))
        for one in wrong:
            if one not in self.found.traces:
                self.found.traces[one] = self._trace(parent, label)

    def _trace(self, at: int | None, last: str) -> tuple[str, ...]:
        steps = [last] if last else []
        while at is not None and (node := self._nodes[at]).parent is not None:
            steps.append(node.label)
            at = node.parent
        return tuple(reversed(steps))
