"""What happens around the jobs: writers, outages, backups and copies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from tests.model.reading import counts_at_once, shown
from tests.model.rules import Rules
from tests.model.steps import landed
from tests.model.world import METRICS, Database, Object, Process, Row, World, ordered

#: Jobs that a machine begins by itself; an adoption is begun by a person.
Label = str


class Move(NamedTuple):
    """Something that may happen: ``what``, with which database, to which video or job."""

    what: str
    database: int = 0
    argument: str = ""
    detail: str = ""

    def __str__(self) -> str:
        where = f" ({'the copy' if self.database else 'here'})" if self.what == "job" else ""
        return " ".join(filter(None, (self.what, self.argument, self.detail))) + where


def job(name: str, database: int = 0, detail: str = "") -> Move:
    """A job begins."""
    return Move("job", database, name, detail)


def write(video: str, database: int = 0) -> Move:
    """A sample is logged."""
    return Move("write", database, video)


def append(videos: str, host: str = "") -> Move:
    """Samples, of one video or more, are appended to the vault: at first to the spool of the machine.

    ``host`` "other" is another machine, whose row is in the vault at once, "fast" one whose clock is ahead.
    A digit behind it is what the sample says, for rows of one video that say the same.
    """
    return Move("append", 0, videos, host)


def store(video: str) -> Move:
    """A document of a video is stored, at first on this machine's disk; its row is then finished."""
    return Move("store", 0, video)


DELIVER, BACKUP, RESTORE, CLONE, PROMOTE, LOSE = (
    Move(name)
    for name in ("deliver", "back up", "restore the backup", "clone", "promote the standby", "lose")
)
#: A fast clock is so many numbers ahead.
_AHEAD = 100


def moves(world: World, move: Move, rules: Rules) -> Iterator[tuple[Label, World]]:
    """Each way that a move may go, if it may happen now."""
    match move.what:
        case "write" if _may_collect(world, move):
            yield str(move), _written(world, move)
        case "append" if world.databases[0].barred.isdisjoint(move.argument):
            yield from _appended(world, move, rules)
        case "store":
            yield from _stored(world, move)
        case "deliver":
            yield from _delivered(world)
        case "back up":
            yield str(move), world._replace(backup=world.databases[0])
        case "restore the backup" if world.backup is not None:
            yield str(move), _restored(world, world.backup)
        case "lose" if world.databases[0].owner and not world.lost:
            yield str(move), _restored(world, Database())
        case "clone" if len(world.databases) == 1:
            yield str(move), _cloned(world)
        case "promote the standby" if world.backup is not None and len(world.databases) == 1:
            yield str(move), _promoted(world, world.backup)


def _may_collect(world: World, move: Move) -> bool:
    database = world.databases[move.database]
    return database.adopted and move.argument not in database.barred


def _written(world: World, move: Move) -> World:
    video, version = move.argument, world.version + 1
    database = world.databases[move.database]
    hot = [row for row in database.hot if row.video != video]
    database = database._replace(hot=ordered([*hot, Row(video, version)]))
    world = world._replace(version=version).with_database(move.database, database)
    return world.with_floor(move.database, video, version)


def _appended(world: World, move: Move, rules: Rules) -> Iterator[tuple[Label, World]]:
    videos, host = move.argument, move.detail.rstrip("0123456789")
    says = move.detail.removeprefix(host)
    version = world.version + 1
    world, seq = world._replace(version=version).tick()
    key = seq
    if says:
        last = next((one for one in world.appended if one[:2] == (videos, host)), None)
        if last is not None and last[2] == says:
            return  # a repeat: the same name, nothing new
        is_chained = rules.chained_names and (last is not None or rules.names_of_hosts)
        key = seq if is_chained else -ord(videos) * 10 - int(says)
        others = [one for one in world.appended if one != last]
        world = world._replace(appended=ordered([*others, (videos, host, says)]))
    number = seq + _AHEAD if host == "fast" else seq
    one = Object(key, METRICS, 0, seq, tuple(Row(video, version, number) for video in videos))
    for at, row in product(range(len(world.databases)), one.rows):
        if counts_at_once(world, at, row):
            world = world.with_floor(at, row.video, version)
    known = any(database.file(key) for database in world.databases)
    if host == "other":
        yield str(move), world.with_object(one)
    elif known or world.object(key) or key in {other.key for other in world.spool}:
        yield str(move), world  # taken for a repeat
    else:
        yield str(move), world._replace(spool=ordered([*world.spool, one]))


def _stored(world: World, move: Move) -> Iterator[tuple[Label, World]]:
    video, database = move.argument, world.databases[0]
    if video in database.barred or video in database.collected:
        return
    world = world._replace(version=world.version + 1)
    rows = [row for row in database.videos if row.video != video]
    row = Row(video, world.version)
    database = database._replace(videos=ordered([*rows, row]))
    world = world.with_database(0, database)
    yield f"{move}, delivered", world._replace(documents=ordered([*world.documents, video]))
    yield f"{move}, waiting", world._replace(waiting=ordered([*world.waiting, video]))


def _delivered(world: World) -> Iterator[tuple[Label, World]]:
    """What waits goes to the store; the machine may die before it has noted that."""
    for one in world.spool:
        there = world.with_object(one)
        kept = tuple(other for other in world.spool if other != one)
        yield f"deliver {one.key}", there._replace(spool=kept)
        yield f"deliver {one.key}, not noted", there
    for video in world.waiting:
        stored = world._replace(documents=ordered([*world.documents, video]))
        kept_back = tuple(other for other in world.waiting if other != video)
        yield f"deliver a document of {video}", stored._replace(waiting=kept_back)


def _restored(world: World, database: Database) -> World:
    """The database is as it was. What must be shown after the adoption: all that the vault counts, and
    what the backup had."""
    world = _with_new_floors(world, database)
    return world._replace(
        databases=(database._replace(adopted=False),), processes=(), last="", lost=True
    )


def _promoted(world: World, standby: Database) -> World:
    """The standby is the database from now on; jobs of the old one go on as they can."""
    old = world.databases[0]
    world = _with_new_floors(world, standby)
    moved = tuple(one._replace(database=1) for one in world.processes)
    databases = (standby._replace(adopted=False), old)
    return world._replace(databases=databases, processes=moved, lost=True)


def _cloned(world: World) -> World:
    original = world.databases[0]
    for floor in world.floors:
        if floor.database == 0:
            world = world.with_floor(1, floor.video, floor.version)
    return world._replace(databases=(original, original._replace(adopted=False)))


def _with_new_floors(world: World, database: Database) -> World:
    """Rows that were hot only are lost with the database; what files hold is not."""
    cold = world.with_database(0, _without_hot_rows(world.databases[0]))
    there = shown(cold, 0) or {}
    back = shown(world.with_database(0, database), 0) or {}
    hot = {row.video: row.version for row in database.hot if not row.seq}
    for floor in world.floors:
        if floor.database == 0:
            video = floor.video
            least = min(
                floor.version, max(there.get(video, 0), hot.get(video, 0), back.get(video, 0))
            )
            world = world.with_floor(0, video, least)
    return world


def owed_to(world: World, number: int) -> World:
    """What other databases have made live until one is adopted, that one must show."""
    for other, database in enumerate(world.databases):
        if other != number:
            cold = world.with_database(other, _without_hot_rows(database))
            for video, version in (shown(cold, other) or {}).items():
                if version > world.floor(number, video):
                    world = world.with_floor(number, video, version)
    return world


def _without_hot_rows(database: Database) -> Database:
    copies = tuple(row for row in database.hot if row.seq)
    tables = [file for file in database.ledger if file.table is None]
    return database._replace(hot=copies, ledger=tuple(tables))


def arrivals(world: World) -> Iterator[tuple[Label, World]]:
    """Writes that the store told as failed, and that arrive now."""
    for late in world.late:
        yield f"a late {late[0]} arrives", landed(world, late)


def begun(
    world: World, move: Move, together: int, *, heedless: bool = False
) -> Iterator[tuple[Label, World]]:
    """A job begins, where there is room for one more."""
    number, name = move.database, move.argument
    if number >= len(world.databases) or len(world.processes) >= together:
        return
    database = world.databases[number]
    if name == "adopt" and database.adopted and not number and move.detail != "set aside":
        return
    if name != "adopt" and world.lost and number == 0 and not database.adopted and not heedless:
        return  # the advice is to adopt before anything else
    label = f"{name}@{number}#{world.clock}"
    kept = world.processes if world.returns else ()  # who cannot come back is dead
    process = Process(label, name, number, move.detail, ())
    yield f"{move} begins", world._replace(processes=(*kept, process), last=label)
