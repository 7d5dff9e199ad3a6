"""Removing finished videos. Mirrors `atlas.janitor`."""

from __future__ import annotations

from tests.model.epoch import begin_job
from tests.model.replacing import mark_written, prove
from tests.model.rules import Site
from tests.model.steps import Job, Transaction, fenced, look, put
from tests.model.world import (
    LIVE,
    SEALED,
    VERIFIED,
    VIDEOS,
    File,
    Object,
    Row,
    Rows,
    World,
    ordered,
)


def clean(site: Site) -> Job[None]:
    """Write the rows of finished videos to a file, then delete those that are as they were written."""
    held = yield from begin_job(site)
    doomed = yield look("doomed", lambda world: _doomed(site, world))
    if not doomed:
        return

    def announce(tx: Transaction) -> int:
        seq = tx.next_seq()
        tx.write(File(seq, VIDEOS, SEALED, seq))
        return seq

    key = yield fenced("add", held, announce)
    rows = tuple(Row(row.video, row.version, key) for row in doomed)
    one = Object(key, VIDEOS, held.owner, key, rows)
    yield from put(site, [one])
    yield mark_written(held, key, rows)
    if not site.rules.delete_when_live:
        yield fenced("delete videos", held, lambda tx: _delete(tx, doomed))
    yield from prove(held, one)

    def live(tx: Transaction) -> None:
        tx.write(tx.file(key, VERIFIED)._replace(state=LIVE))
        _delete(tx, doomed)

    yield fenced("mark_live", held, live)


def _doomed(site: Site, world: World) -> Rows:
    waiting = world.waiting if site.rules.documents_first else ()
    return tuple(row for row in world.databases[site.database].videos if row.video not in waiting)


def _delete(tx: Transaction, doomed: Rows) -> None:
    removed = [
        row
        for row in tx.database.videos
        if row in doomed
        or (not tx.site.rules.same_version and row.video in {one.video for one in doomed})
    ]
    tx.set(
        videos=tuple(row for row in tx.database.videos if row not in removed),
        collected=ordered({*tx.database.collected, *(row.video for row in removed)}),
    )
    kept = [row for row in tx.world.removed if row.video not in {one.video for one in removed}]
    tx.world = tx.world._replace(removed=ordered([*kept, *removed]))
