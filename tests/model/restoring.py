"""Bringing cold samples back, and letting them go. Mirrors `atlas.archive.restore`."""

from __future__ import annotations

from tests.model.archiving import finish_left
from tests.model.epoch import begin_job
from tests.model.reading import cold_rows
from tests.model.rules import Site
from tests.model.steps import Job, Transaction, fenced, look, newest
from tests.model.world import Row, Rows, World


def restore(site: Site) -> Job[None]:
    """Copy cold samples back and keep them hot."""
    held = yield from begin_job(site)
    yield from finish_left(held)

    def counting(world: World) -> Rows:
        return newest(cold_rows(world, site.database) or ())

    cold = yield look("read inputs", counting)
    yield fenced("pin", held, lambda tx: tx.set(pinned=True))

    def insert_missing(tx: Transaction) -> None:
        hot = {row.video for row in tx.database.hot}
        copies = [
            Row(row.video, row.version, row.seq if site.rules.restored_seq else -1)
            for row in cold
            if row.video not in hot | tx.database.barred
        ]
        tx.set(hot=tuple(sorted([*tx.database.hot, *copies])))

    yield fenced("insert_missing", held, insert_missing)


def release(site: Site) -> Job[None]:
    """Delete the copies that nobody corrected, then the pin."""
    held = yield from begin_job(site)
    if not (yield look("pins", lambda world: world.databases[site.database].pinned)):
        return

    def compared(world: World) -> frozenset[tuple[str, int]]:
        return frozenset(row[:2] for row in newest(cold_rows(world, site.database) or ()))

    cold = yield look("read inputs", compared)

    def delete_copies(tx: Transaction) -> None:
        if site.rules.restored_seq:
            kept = [row for row in tx.database.hot if not row.seq]
        else:
            kept = [row for row in tx.database.hot if row[:2] not in cold]
        tx.set(hot=tuple(kept))

    yield fenced("delete_copies", held, delete_copies)
    yield fenced("unpin", held, lambda tx: tx.set(pinned=False))
