"""Forgetting videos. Mirrors `atlas.archive.erasure`."""

from __future__ import annotations

from typing import Any

from tests.model.archiving import finish_left
from tests.model.deletion import delete_objects
from tests.model.epoch import begin_job
from tests.model.replacing import appended_keys, mark_written, prove, put_record, rewrite
from tests.model.rules import Site
from tests.model.steps import Held, Job, Step, Transaction, fenced, look, put
from tests.model.taking import put_erasure
from tests.model.world import (
    GONE,
    LIVE,
    RETIRED,
    SEALED,
    STATS,
    VERIFIED,
    VIDEOS,
    Bar,
    Batch,
    File,
    Object,
    World,
    ordered,
)


def forget(site: Site, video: str) -> Job[None]:
    """Erase a video, and bar its id from coming back."""
    held = yield from begin_job(site)
    if site.rules.bar_first:
        yield from _bar(held, video)
    yield from _erase(held, video)


def finish_erasures(held: Held) -> Job[None]:
    """Erase what was barred and not erased to the end."""

    def unfinished(world: World) -> tuple[str, ...]:
        bars = world.databases[held.site.database].bars
        return tuple(bar.video for bar in bars if not bar.erased)

    for video in (yield look("unfinished", unfinished)):
        yield from _bar(held, video)
        yield from _erase(held, video)


def _bar(held: Held, video: str) -> Job[None]:
    def work(tx: Transaction) -> None:
        kept = [bar for bar in tx.database.bars if bar.video != video]
        tx.set(bars=ordered([*kept, Bar(video, False)]))

    yield fenced("bar", held, work)


def _erase(held: Held, video: str) -> Job[None]:
    known = yield look("known records", lambda world: (held.owner, video) in world.erasures)
    if held.site.rules.erasure_records and not known:
        yield put_erasure(held, video)
    if held.site.rules.flush_first:
        yield from _flush(video)
    yield from finish_left(held)
    yield _delete_rows(held, video)
    yield from _rewrite(held, video)
    yield from _rewrite_videos(held, video)
    yield from _delete_leftovers(held, video)
    if (yield look("documents", lambda world: video in world.documents)):
        yield Step("delete documents", lambda world: [(_without_documents(world, video), None)])
    yield _delete_rows(held, video)
    if not held.site.rules.bar_first:
        yield from _bar(held, video)

    def finish(tx: Transaction) -> None:
        bars = [Bar(bar.video, bar.erased or bar.video == video) for bar in tx.database.bars]
        tx.set(bars=ordered(bars))

    yield fenced("finish", held, finish)
    yield Step("returns", lambda world: [(_forgotten(world, video), None)])


def _forgotten(world: World, video: str) -> World:
    """From now on nobody may be shown anything of it."""
    kept = tuple(one for one in world.floors if one.video != video)
    removed = tuple(row for row in world.removed if row.video != video)
    return world._replace(
        forgotten=ordered([*world.forgotten, video]), floors=kept, removed=removed
    )


def _flush(video: str) -> Job[None]:
    """Deliver what waits on this machine: rows become objects, documents of the video go."""
    for one in (yield look("spool", lambda world: world.spool)):

        def deliver(world: World, one: Object = one) -> list[tuple[World, Any]]:
            kept = tuple(other for other in world.spool if other != one)
            return [(world.with_object(one)._replace(spool=kept), None)]

        yield Step("flush", deliver)

    def send(world: World) -> list[tuple[World, Any]]:
        stored = ordered([*world.documents, *world.waiting])
        return [(world._replace(documents=stored, waiting=()), None)]

    if (yield look("waiting", lambda world: world.waiting)):
        yield Step("flush documents", send)


def _without_documents(world: World, video: str) -> World:
    return world._replace(documents=tuple(one for one in world.documents if one != video))


def _delete_rows(held: Held, video: str) -> Step:
    def work(tx: Transaction) -> None:
        tx.set(
            hot=tuple(row for row in tx.database.hot if row.video != video),
            videos=tuple(row for row in tx.database.videos if row.video != video),
        )

    return fenced("delete_rows", held, work)


def _rewrite(held: Held, video: str) -> Job[None]:
    """Replace every counting file that holds rows of the video, each by one without."""

    def holding(world: World) -> tuple[tuple[int, bool], ...]:
        database = world.databases[held.site.database]
        known = [(key, True) for key in database.keys(LIVE, folder=STATS)]
        appended = [(key, False) for key in appended_keys(world, database)]
        return tuple(one for one in [*known, *appended] if _holds(world, one[0], video))

    for key, is_known in (yield look("candidates", holding)):
        known, appended = ([key], []) if is_known else ([], [key])
        yield from rewrite(held, known, appended, [video])


def _holds(world: World, key: int, video: str) -> bool:
    one = world.object(key)
    return one is not None and any(row.video == video for row in one.rows)


def _rewrite_videos(held: Held, video: str) -> Job[None]:
    """Replace the files of removed videos that hold it."""

    def holding(world: World) -> tuple[Object, ...]:
        keys = world.databases[held.site.database].keys(LIVE, folder=VIDEOS)
        found = (world.whole(key) for key in keys)
        return tuple(one for one in found if one and any(row.video == video for row in one.rows))

    for old in (yield look("candidates", holding)):
        kept = tuple(row for row in old.rows if row.video != video)
        outputs: tuple[int, ...] = ()
        batch = yield look("draw a batch", lambda world: -world.clock)
        if kept:
            key = yield fenced("add", held, lambda tx, batch=batch: _announce_videos(tx, batch))
            outputs = (key,)
        yield from put_record(held, Batch(held.owner, batch, (old.key,), outputs, ()))
        for key in outputs:
            new = Object(key, VIDEOS, held.owner, key, kept, batch)
            yield from put(held.site, [new])
            yield mark_written(held, key, kept)
            yield from prove(held, new)

        def swap(tx: Transaction, old: Object = old, outputs: tuple[int, ...] = outputs) -> None:
            for key in outputs:
                tx.write(tx.file(key, VERIFIED)._replace(state=LIVE))
            tx.write(tx.file(old.key, LIVE)._replace(state=RETIRED))

        yield fenced("swap", held, swap)


def _announce_videos(tx: Transaction, batch: int) -> int:
    key = tx.next_seq()
    tx.write(File(key, VIDEOS, SEALED, key, batch=batch))
    return key


def _delete_leftovers(held: Held, video: str) -> Job[None]:
    """Delete what was replaced, now or earlier, where it holds such rows, and what dead runs left."""

    def leftovers(tx: Transaction) -> tuple[tuple[int, ...], tuple[int, ...]]:
        dead = [key for key in tx.database.keys(RETIRED) if _holds(tx.world, key, video)]
        strays = [key for key in tx.database.keys(GONE) if _holds(tx.world, key, video)]
        if not held.site.rules.only_the_dead:
            unnamed = [
                one.key
                for one in tx.world.objects
                if one.owner == held.owner and tx.database.file(one.key) is None
            ]
            strays += [key for key in unnamed if _holds(tx.world, key, video)]
        return tuple(dead), tuple(strays)

    dead, strays = yield fenced("leftovers", held, leftovers)
    yield from delete_objects(held, (*dead, *strays))
