"""What a reader shows. Mirrors `atlas.reader` and the snapshot that it takes."""

from __future__ import annotations

from collections.abc import Iterable

from tests.model.rules import Site
from tests.model.steps import Job, Step, look
from tests.model.world import LIVE, METRICS, STATS, Database, Row, Rows, World

#: A row's rank: hot above sealed above cold, then the higher number.
Ranked = tuple[tuple[int, int], Row]


def shown(world: World, number: int) -> dict[str, int] | None:
    """Each video's version as a scan on this machine shows it that nothing disturbs; None where it cannot
    tell."""
    database = world.databases[number]
    cold = cold_rows(world, number)
    if cold is None:
        return None
    spooled = [row for one in world.spool for row in one.rows]
    return _winners([*_tables(database), *_cold((*cold, *spooled))], database.barred)


def counts_at_once(world: World, number: int, row: Row) -> bool:
    """Whether an appended row is the newest one of its sample."""
    database = world.databases[number]
    tables = [one for rank, one in _tables(database) if rank > (1, row.seq)]
    cold = [one for one in cold_rows(world, number) or () if one.seq > row.seq]
    return all(one.video != row.video for one in (*tables, *cold))


def cold_rows(world: World, number: int) -> Rows | None:
    """Every row of a file that counts; None where one is missing or cannot be decoded."""
    database = world.databases[number]
    rows: list[Row] = []
    for key in live_keys(database):
        one, file = world.whole(key), database.file(key)
        if one is None or file is None or one.rows != file.facts:
            return None
        rows += one.rows
    known = {file.key for file in database.ledger}
    for one in world.objects:
        if one.folder == METRICS and one.key not in known:
            rows += one.rows
    return tuple(rows)


def live_keys(database: Database) -> tuple[int, ...]:
    """The files of samples that count and hold something."""
    return tuple(
        file.key
        for file in database.ledger
        if file.folder == STATS and file.state == LIVE and file.facts
    )


def _tables(database: Database) -> list[Ranked]:
    """Rows of PostgreSQL. A restored one is worth what it was worth in its file."""
    hot = [((1, row.seq) if row.seq > 0 else (3, 0), row) for row in database.hot]
    sealed = [((2, file.seq), row) for file in database.ledger for row in file.table or ()]
    return [*hot, *sealed]


def _cold(rows: Iterable[Row]) -> list[Ranked]:
    return [((1, row.seq), row) for row in rows]


def _winners(rows: Iterable[Ranked], barred: frozenset[str]) -> dict[str, int] | None:
    best: dict[str, tuple[tuple[int, int], int]] = {}
    for rank, row in rows:
        if row.video in barred:
            continue
        found = best.get(row.video)
        if found is not None and found[0] == rank and found[1] != row.version:
            return None
        if found is None or rank > found[0]:
            best[row.video] = (rank, row.version)
    return {video: version for video, (_, version) in best.items()}


def read(site: Site) -> Job[None]:
    """A scan: the snapshot under its locks, the spool, a listing, a second look, then file after file."""
    number = site.database
    while True:
        floors = yield look("begin", lambda world: world.floors)
        spooled = yield look("look at the spool", lambda world: _spooled(site, world))
        database: Database = yield look("snapshot", lambda world: world.databases[number])
        listed = yield look("list metrics", _metrics)
        if not site.rules.spool_first:
            spooled = yield look("look at the spool", lambda world: world.spool)
        now = yield look("has_moved", lambda world: _adopted(world.databases[number]))
        if now <= _adopted(database) or not site.rules.look_again:
            break
    rows = [row for one in spooled for row in one.rows]
    for key in (*live_keys(database), *(key for key in listed if key not in _adopted(database))):
        found = yield look("read file", lambda world, key=key: world.whole(key))
        if found is None:
            yield Step("result", lambda world: [(_broken_off(world, number), None)])
            return
        rows += found.rows
    won = _winners([*_tables(database), *_cold(rows)], database.barred)

    def judge(world: World) -> list[tuple[World, None]]:
        for one in floors:
            missing = one.database == number and one.video not in database.barred
            if missing and (won is None or won.get(one.video, 0) < one.version):
                return [(world._replace(wrong="a scan misses an acknowledged sample"), None)]
        return [(world, None)]

    yield Step("result", judge)


def _broken_off(world: World, number: int) -> World:
    """A file is gone while it was to be read. Only an erasure deletes at once."""
    if world.databases[number].bars:
        return world
    return world._replace(wrong="a scan breaks off")


def _spooled(site: Site, world: World) -> tuple[object, ...]:
    return world.spool if site.rules.spool_first else ()


def _metrics(world: World) -> tuple[int, ...]:
    return tuple(one.key for one in world.objects if one.folder == METRICS)


def _adopted(database: Database) -> frozenset[int]:
    return frozenset(file.key for file in database.ledger if file.folder == METRICS)
