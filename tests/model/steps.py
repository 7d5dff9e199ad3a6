"""What a job does next, one durable step at a time, and the store's side of it.

A job is a generator of `Step`s. It is sent what a step returned; a step that was refused is thrown into it.
Nothing but the fence keeps two jobs apart: locks can be lost, and the model has none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from tests.model.rules import Fault, Site
from tests.model.world import Database, File, Mark, Object, Row, Rows, World

T = TypeVar("T")


class Refused(Exception):
    """A step that changed nothing, and why."""


class Refusal(NamedTuple):
    """The same as a value, which a process can remember."""

    why: str


Effect: TypeAlias = Callable[[World], list[tuple[World, Any]]]


class Step(NamedTuple):
    """``effect`` gives each way that it may go; one that only ``looks`` changes nothing."""

    label: str
    effect: Effect
    looks: bool = False


Job: TypeAlias = Generator[Step, Any, T]


class Held(NamedTuple):
    """The archive lock, as `Steps` of the archive has it, with the epoch that the job began."""

    site: Site
    fence: int
    mark: Mark

    @property
    def owner(self) -> int:
        """The owner's mark."""
        return self.mark.owner

    def database(self, world: World) -> Database:
        """The database that it is the lock of."""
        return world.databases[self.site.database]


class Transaction:
    """A transaction of PostgreSQL: all of it or, if it raises `Refused`, nothing."""

    def __init__(self, site: Site, world: World) -> None:
        self.site, self.world = site, world
        self.database: Database = world.databases[site.database]

    def set(self, **values: Any) -> None:
        """Change columns of the database."""
        self.database = self.database._replace(**values)

    def fresh(self) -> int:
        """A number that nobody else has."""
        self.world, number = self.world.tick()
        return number

    def next_seq(self) -> int:
        """The number of the next file: the clock, but above every earlier one."""
        number = max(self.world.clock, self.database.last_seq + 1)
        if not self.site.rules.rising_seq:
            number = self.world.clock
        self.world = self.world._replace(clock=max(number, self.world.clock) + 1)
        self.set(last_seq=max(number, self.database.last_seq))
        return number

    def write(self, *files: File) -> None:
        """Write ledger rows."""
        self.database = self.database.with_files(*files)

    def file(self, key: int, *states: str) -> File:
        """The ledger row, in one of these states; else an archiver that was overtaken is refused."""
        file = self.database.file(key)
        if file is None or file.state not in states:
            raise Refused("LeaseLost")
        return file

    def committed(self) -> World:
        """The world after the commit."""
        return self.world.with_database(self.site.database, self.database)


def look(label: str, query: Callable[[World], T]) -> Step:
    """Read the database or the store."""
    return Step(label, lambda world: [(world, query(world))], looks=True)


def transaction(
    label: str, site: Site, work: Callable[[Transaction], Any], *, fence: int | None = None
) -> Step:
    """Commit some work, if nobody has drawn a later ``fence``."""

    def effect(world: World) -> list[tuple[World, Any]]:
        one = Transaction(site, world)
        if fence is not None and site.rules.fenced and one.database.fence != fence:
            return [(world, Refusal("LeaseLost"))]
        try:
            result = work(one)
        except Refused as refused:
            return [(world, Refusal(str(refused)))]
        return [(one.committed(), result)]

    return Step(label, effect)


def fenced(label: str, held: Held, work: Callable[[Transaction], Any]) -> Step:
    """A step of the ledger."""
    return transaction(label, held.site, work, fence=held.fence)


def put(site: Site, objects: Sequence[Object]) -> Job[None]:
    """Create objects, in one commit or one after the other; a name that is taken is left alone."""
    groups = [tuple(objects)] if site.hub else [(one,) for one in objects]
    created: list[int] = []
    for group in filter(None, groups):
        try:
            yield Step("put_files", _put(site, group))
        except Refused:
            if created and not site.rules.leave_what_was_put:
                yield _take_back(tuple(created))
            raise
        created += [one.key for one in group]


def _take_back(keys: tuple[int, ...]) -> Step:
    return Step("take back", lambda world: [(world.without_objects(keys), None)])


def _put(site: Site, objects: tuple[Object, ...]) -> Effect:
    def done(world: World, *, damaged: bool = False) -> World:
        for one in objects:
            if not site.rules.create_only:
                world = world.without_objects([one.key])
            world = world.with_object(one._replace(whole=not damaged))
        return moved(site, world)

    def effect(world: World) -> list[tuple[World, Any]]:
        if all(world.object(one.key) for one in objects) and site.rules.create_only:
            return [(world, None)]
        outcomes = [(done(world), None)]
        if Fault.LATE in site.faults and not world.late:
            late = world._replace(late=(("put", objects),))
            outcomes.append((late, Refusal("VaultUnavailable")))
        if Fault.DAMAGED in site.faults and all(one.whole for one in world.objects):
            outcomes.append((done(world, damaged=True), None))
        return outcomes

    return effect


def atomically(label: str, job: Callable[[], Job[Any]]) -> Step:
    """A whole job as one step, with neither faults nor company."""

    def effect(world: World) -> list[tuple[World, Any]]:
        try:
            return [run_through(world, job())]
        except Refused as refused:
            return [(world, Refusal(str(refused)))]

    return Step(label, effect)


def run_through(world: World, job: Job[T]) -> tuple[World, T]:
    """Run a job to its end, each step going as it should. Raises `Refused` as it does."""
    result: Any = None
    try:
        while True:
            step = (
                job.throw(Refused(result.why)) if isinstance(result, Refusal) else job.send(result)
            )
            world, result = step.effect(world)[0]
    except StopIteration as end:
        return world, end.value


def moved(site: Site, world: World) -> World:
    """After a commit the Hub refuses every write that was begun before."""
    return world._replace(late=()) if site.hub else world


def compare_and_swap(site: Site, owner: int, before: Mark | None, after: Mark) -> Step:
    """Swap the epoch of an owner; True, False, or refused by a service that does not say."""

    def effect(world: World) -> list[tuple[World, Any]]:
        if world.mark(owner) != before and site.rules.compare_epoch:
            return [(world, False)]
        done = swapped(world, owner, world.mark(owner), after)
        outcomes: list[tuple[World, Any]] = [(moved(site, done), True)]
        if Fault.LOST in site.faults:
            outcomes.append((moved(site, done), Refusal("VaultUnavailable")))
        if Fault.LATE in site.faults and not world.late:
            late = world._replace(late=(("swap", owner, before, after),))
            outcomes.append((late, Refusal("VaultUnavailable")))
        return outcomes

    return Step("compare_and_swap", effect)


def swapped(world: World, owner: int, before: Mark | None, after: Mark) -> World:
    """The world after a swap, or the same if the mark is not ``before``."""
    if world.mark(owner) != before:
        return world
    kept = [mark for mark in world.marks if mark.owner != owner]
    return world._replace(marks=tuple(sorted([*kept, after])))


def landed(world: World, write: tuple[object, ...]) -> World:
    """The world after a late write has arrived."""
    world = world._replace(late=tuple(one for one in world.late if one != write))
    match write:
        case ("put", objects):
            for one in objects:
                world = world.with_object(one)
        case ("swap", owner, before, after):
            world = swapped(world, owner, before, after)
    return world


def newest(rows: Sequence[Row]) -> Rows:
    """Of rows for one sample the one with the highest number."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.video not in best or row.seq > best[row.video].seq:
            best[row.video] = row
    return tuple(sorted(best.values()))
