"""Replacing files by others that hold the same rows. Mirrors `atlas.archive.rewrite` and `compaction`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from tests.model.epoch import begin_job
from tests.model.rules import Site
from tests.model.steps import (
    Held,
    Job,
    Refused,
    Step,
    Transaction,
    fenced,
    look,
    moved,
    newest,
    put,
)
from tests.model.world import (
    LIVE,
    METRICS,
    RETIRED,
    SEALED,
    STATS,
    VERIFIED,
    WRITTEN,
    Batch,
    Database,
    File,
    Object,
    Row,
    Rows,
    World,
)


def compact(site: Site) -> Job[None]:
    """Merge what is live, and adopt what was appended."""
    held = yield from begin_job(site)
    live, appended, barred = yield look("plan", lambda world: _plan(site, world))
    if len(live) + len(appended) > 1 or appended:
        yield from rewrite(held, live, appended, barred)


def _plan(site: Site, world: World) -> tuple[tuple[int, ...], tuple[int, ...], frozenset[str]]:
    database = world.databases[site.database]
    return database.keys(LIVE, folder=STATS), appended_keys(world, database), database.barred


def appended_keys(world: World, database: Database) -> tuple[int, ...]:
    """Appended files that the ledger does not know."""
    return tuple(
        one.key for one in world.objects if one.folder == METRICS and database.file(one.key) is None
    )


def rewrite(
    held: Held, known: Sequence[int], appended: Sequence[int], excluded: Collection[str]
) -> Job[None]:
    """Replace files by one that holds their rows, or by one for each row, but for excluded ids."""
    rows: list[Row] = []
    contents: dict[int, Rows] = {}
    for key in (*known, *appended):
        found = yield look("read input", lambda world, key=key: world.whole(key))
        if found is None:
            raise Refused("CorruptObject")
        contents[key] = found.rows
        rows += found.rows
    kept = tuple(row for row in newest(rows) if row.video not in excluded)
    parts = [(row,) for row in kept] if held.site.split else [kept] if kept else []
    batch, keys, slices = yield fenced("add", held, lambda tx: _announce(tx, parts, known))
    record = Batch(held.owner, batch, (*known, *appended), keys, slices)
    if held.site.rules.record_first:
        yield from put_record(held, record)
    objects = [
        Object(key, STATS, held.owner, key, part, batch)
        for key, part in zip(keys, parts, strict=True)
    ]
    yield from put(held.site, objects)
    for one in objects:
        yield mark_written(held, one.key, one.rows)
    for one in objects:
        yield from prove(held, one)
    yield fenced("swap", held, lambda tx: _swap(tx, keys, known, appended, contents))
    if not held.site.rules.record_first:
        yield from put_record(held, record)


def _announce(
    tx: Transaction, parts: Sequence[Rows], known: Sequence[int]
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The ledger names the objects before they are made; their batch, their names, and slices among the
    inputs."""
    files = [tx.file(key, LIVE) for key in known]
    slices = tuple(file.seq for file in files if not file.batch)
    batch, keys = tx.fresh(), []
    for _ in parts:
        key = tx.next_seq()
        tx.write(File(key, STATS, SEALED, key, batch=batch))
        keys.append(key)
    return batch, tuple(keys), slices


def mark_written(held: Held, key: int, rows: Rows) -> Step:
    """sealed -> written."""

    def work(tx: Transaction) -> None:
        tx.write(tx.file(key, SEALED)._replace(state=WRITTEN, facts=rows))

    return fenced("mark_written", held, work)


def prove(held: Held, one: Object) -> Job[None]:
    """written -> verified, once the object was read back."""
    found = yield look("read back", lambda world: world.whole(one.key))
    if held.site.rules.read_back and (found is None or found.rows != one.rows):
        raise Refused("VerificationFailed")

    def work(tx: Transaction) -> None:
        tx.write(tx.file(one.key, WRITTEN)._replace(state=VERIFIED))

    yield fenced("mark_verified", held, work)


def put_record(held: Held, record: Batch) -> Job[None]:
    """What takes the place of what, for whoever finds the outputs without a ledger that tells."""

    def effect(world: World) -> list[tuple[World, Any]]:
        batches = tuple(sorted({*world.batches, record}))
        return [(moved(held.site, world._replace(batches=batches)), None)]

    if held.site.rules.batch_records:
        yield Step("put_batch", effect)


def _swap(
    tx: Transaction,
    outputs: Sequence[int],
    known: Sequence[int],
    appended: Sequence[int],
    contents: dict[int, Rows],
) -> None:
    """The outputs count from the commit on, and the inputs no more."""
    for key in outputs:
        tx.write(tx.file(key, VERIFIED)._replace(state=LIVE))
    for key in known:
        tx.write(tx.file(key, LIVE)._replace(state=RETIRED))
    for key in appended:
        if tx.database.file(key) is not None:
            raise Refused("LeaseLost")
        tx.write(File(key, METRICS, RETIRED, key, facts=contents[key]))
    if tx.site.rules.above_rows:
        # a machine whose clock is ahead must not outdo what is logged later
        numbers = [row.seq for rows in contents.values() for row in rows]
        tx.set(last_seq=max([tx.database.last_seq, *numbers]))
