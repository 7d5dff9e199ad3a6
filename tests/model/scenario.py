"""A scenario: what may happen and how often, and what must hold meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.model.adoption import adopt
from tests.model.archiving import archive
from tests.model.environment import Move, arrivals, begun, moves
from tests.model.erasing import forget
from tests.model.explorer import Explorer, Found, System
from tests.model.reading import read, shown
from tests.model.removing import clean
from tests.model.replacing import compact
from tests.model.restoring import release, restore
from tests.model.rules import Fault, Rules, Site
from tests.model.steps import Job, Refusal, Refused, Step, run_through
from tests.model.upkeep import collect_garbage
from tests.model.world import LIVE, OPEN, VIDEOS, Database, Process, World

JOBS: dict[str, Callable[..., Job[None]]] = {
    "archive": archive,
    "compact": compact,
    "gc": collect_garbage,
    "forget": forget,
    "restore": restore,
    "release": release,
    "janitor": clean,
    "adopt": adopt,
    "read": read,
}
#: What each database shows; None: nothing is asked of it, or it cannot be read.
Views = tuple[dict[str, int] | None, ...]


@dataclass(frozen=True)
class Scenario:
    """What may happen, each move at most as often as told.

    ``before`` happened already. ``returns`` says how often a job that stood still while another one
    worked may come back to life; without returns it is dead. ``together``: so many jobs at most. With
    ``fine`` something may come between any two reads. With ``settles`` a run from any state must find its
    end. ``heedless``: jobs begin before anybody has adopted.
    """

    moves: Mapping[Move, int]
    before: Sequence[Move] = ()
    faults: frozenset[Fault] = frozenset()
    returns: int = 0
    together: int = 2
    databases: int = 1
    fine: bool = False
    split: bool = False
    hub: bool = False
    coarse: bool = True
    settles: bool = False
    heedless: bool = False
    rules: Rules = field(default_factory=Rules)

    def without(self, rule: str) -> Scenario:
        """The same with one rule broken."""
        return replace(self, rules=replace(self.rules, **{rule: False}))

    def site(self, database: int, *, untroubled: bool = False) -> Site:
        """Where a job works."""
        faults = frozenset() if untroubled else self.faults
        return Site(database, self.rules, faults, self.split, self.hub, self.coarse)

    def job(self, process: Process, *, untroubled: bool = False) -> Job[None]:
        """A process from its begin."""
        arguments = [process.argument] if process.argument else []
        return JOBS[process.job](self.site(process.database, untroubled=untroubled), *arguments)


def search(scenario: Scenario, *, first_only: bool = False) -> Found:
    """Search all that can happen in a scenario."""
    judge = _Judge(scenario)
    system = System(
        _start(scenario), lambda world: _successors(scenario, world), judge.examine, judge.compare
    )
    return Explorer(system).search(first_only=first_only)


def _start(scenario: Scenario) -> World:
    world = World((Database(),) * scenario.databases, returns=scenario.returns)
    for move in scenario.before:
        if move.what == "job":
            process = Process("", move.argument, move.database, move.detail, ())
            world, _ = run_through(world, scenario.job(process, untroubled=True))
        else:
            _, world = next(iter(moves(world, move, scenario.rules)))
    return world._replace(budget=tuple(sorted(scenario.moves.items())))


def _successors(scenario: Scenario, world: World) -> Iterator[tuple[str, World]]:
    yield from _begun_moves(scenario, world)
    yield from arrivals(world)
    for process in world.processes:
        returns = world.returns - (process.name != world.last)
        if returns < 0:
            continue
        for label, after, going_on in _advanced(scenario, world, process):
            others = [one for one in world.processes if one.name != process.name]
            if not returns:
                others = []  # nobody else comes back
            running = [*others, going_on] if going_on else others
            yield f"{process.job}: {label}", after._replace(
                processes=tuple(sorted(running)),
                last=process.name if going_on else "",
                returns=returns,
            )


def _begun_moves(scenario: Scenario, world: World) -> Iterator[tuple[str, World]]:
    for at, (move, left) in enumerate(world.budget):
        if left:
            spent = (*world.budget[:at], (move, left - 1), *world.budget[at + 1 :])
            paid = world._replace(budget=spent)
            if move.what == "job":
                yield from begun(paid, move, scenario.together, heedless=scenario.heedless)
            else:
                yield from moves(paid, move, scenario.rules)


def _advanced(
    scenario: Scenario, world: World, process: Process
) -> Iterator[tuple[str, World, Process | None]]:
    """What a process can do next. The reads that follow a step happen with it, unless ``fine`` or by a scan:
    between them counts only what changes something."""
    together = not scenario.fine and process.job != "read"
    job, step = _resumed(scenario, process)
    assert step is not None
    outcomes = step.effect(world)
    for after, result in outcomes:
        if len(outcomes) > 1:
            job, _ = _resumed(scenario, process)
        told, following = [result], _told(job, result)
        while following is not None and following.looks and together:
            ((after, value),) = following.effect(after)
            told.append(value)
            following = _told(job, value)
        label = f"{step.label}: {result.why}" if isinstance(result, Refusal) else step.label
        going_on = process._replace(told=(*process.told, *told)) if following else None
        yield label, after, going_on


def _resumed(scenario: Scenario, process: Process) -> tuple[Job[None], Step | None]:
    """A process where it stands: its job, sent again what it was told."""
    job = scenario.job(process)
    step: Step | None = next(job)
    for result in process.told:
        step = _told(job, result)
    return job, step


def _told(job: Job[None], result: Any) -> Step | None:
    """The step after a result; None at the end of the job."""
    try:
        return job.throw(Refused(result.why)) if isinstance(result, Refusal) else job.send(result)
    except (StopIteration, Refused):
        return None


class _Judge:
    """The properties."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._settled: dict[int, str | None] = {}

    def examine(self, world: World) -> tuple[Views, list[str]]:
        """What is shown, and what of it is wrong."""
        numbers = range(len(world.databases))
        views = [self._view(world, number) for number in numbers]
        wrong = [world.wrong] if world.wrong else []
        for number in numbers:
            if _counts(world, number):
                wrong += self._misses(world, number, views[number])
        wrong += self._unreachable(world)
        if self.scenario.settles and not wrong:
            wrong += self._unsettled(world)
        return tuple(views), wrong

    def compare(self, before: Views, after: Views) -> Iterator[str]:
        """A sample that was shown does not give way to an older version."""
        if len(before) != len(after):
            return
        for old, new in zip(before, after, strict=True):
            if old and new:
                for video, version in old.items():
                    if video in new and new[video] < version:
                        yield "an older version is shown than before"

    def _view(self, world: World, number: int) -> dict[str, int] | None:
        if not _counts(world, number):
            return None
        return shown(world, number)

    def _misses(self, world: World, number: int, view: dict[str, int] | None) -> Iterator[str]:
        if view is None:
            if len(world.databases) == 1:
                yield "a file that counts cannot be read"
            else:  # another one has replaced it: the next job finds that out
                yield from self._stays_unreadable(world, number)
            return
        barred = world.databases[number].barred
        for floor in world.floors:
            is_asked = floor.database == number and floor.video not in barred
            if is_asked and view.get(floor.video, 0) < floor.version:
                yield "an acknowledged sample is not shown"
        if not view.keys().isdisjoint(world.forgotten):
            yield "a forgotten video is shown"
        if not world.lost and any(_is_kept(world, number, video) for video in world.forgotten):
            yield "rows of a forgotten video are kept"
        yield from _lost_videos(world, number)

    def _stays_unreadable(self, world: World, number: int) -> Iterator[str]:
        after = self._run_alone(world, number, "archive")
        if isinstance(after, str) or shown(after, number) is None:
            yield "a file that counts cannot be read, and the next job does not mend it"

    def _unreachable(self, world: World) -> Iterator[str]:
        """Something must hold each sample, adopted or not."""
        barred = frozenset[str]().union(*(database.barred for database in world.databases))
        barred |= {video for _, video in world.erasures}
        for floor in world.floors:
            if floor.video not in barred and not _is_held(world, floor.video, floor.version):
                yield "nothing holds an acknowledged sample any more"

    def _unsettled(self, world: World) -> Iterator[str]:
        for number, database in enumerate(world.databases):
            if not _counts(world, number) or not database.adopted:
                continue
            key = hash((world._replace(budget=(), processes=(), last="", returns=0), number))
            if key not in self._settled:
                self._settled[key] = self._how_it_settles(world, number)
            if (wrong := self._settled[key]) is not None:
                yield wrong

    def _how_it_settles(self, world: World, number: int) -> str | None:
        after = self._run_alone(world, number, "archive")
        if isinstance(after, str):
            return f"the next run is refused: {after}"
        if any(file.state in OPEN for file in after.databases[number].ledger):
            return "the next run leaves an open file"
        view = shown(after, number)
        wrong = list(self._misses(after, number, view)) + list(self._unreachable(after))
        return f"after the next run: {wrong[0]}" if wrong else None

    def _run_alone(self, world: World, number: int, name: str) -> World | str:
        process = Process("", name, number, "", ())
        try:
            job = self.scenario.job(process, untroubled=True)
            return run_through(world._replace(processes=()), job)[0]
        except Refused as refused:
            return str(refused)


def _counts(world: World, number: int) -> bool:
    """Whether the vault knows the database as its own."""
    database = world.databases[number]
    if not database.adopted:
        return False
    if len(world.databases) == 1:
        return True
    if world.marks and not database.nonce:
        return False  # it never began, and another one did
    mark = world.mark(database.owner)
    at = None if mark is None else (mark.epoch, mark.nonce)
    return at in (None, (database.epoch, database.nonce), (database.epoch + 1, database.pending))


def _is_held(world: World, video: str, version: int) -> bool:
    rows = [row for one in (*world.objects, *world.spool) if one.whole for row in one.rows]
    for database in world.databases:
        rows += database.hot
        rows += [row for file in database.ledger for row in file.table or ()]
    return any(row.video == video and row.version >= version for row in rows)


def _is_kept(world: World, number: int, video: str) -> bool:
    """Whether a file that counts, or this machine's spool, holds a video that was forgotten."""
    files = [file for file in world.databases[number].ledger if file.state == LIVE]
    rows = [row for file in files for row in file.facts or ()]
    rows += [row for one in world.spool for row in one.rows]
    return video in world.waiting or any(row.video == video for row in rows)


def _lost_videos(world: World, number: int) -> Iterator[str]:
    """A video that was removed lies in a file, and is not collected again; its document is safe."""
    if number:
        return
    database = world.databases[number]
    kept = {row[:2] for row in database.videos}
    for file in database.ledger:
        one = world.whole(file.key) if (file.folder, file.state) == (VIDEOS, LIVE) else None
        kept |= {row[:2] for row in one.rows} if one else set()
    for video, version, _ in world.removed:
        if video in database.barred:
            continue
        if (video, version) not in kept:
            yield "a removed video lies in no file"
        there = {row.video for row in database.videos}
        if video not in database.collected and video not in there:
            yield "a removed video would be collected again"
        if video not in world.documents:
            yield "a video was removed before its document was safe"
