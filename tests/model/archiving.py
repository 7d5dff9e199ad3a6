"""A slice's way from attached to live. Mirrors `atlas.archive.run` and `atlas.archive.steps`."""

from __future__ import annotations

from tests.model.deletion import delete_objects
from tests.model.epoch import begin_job
from tests.model.replacing import mark_written
from tests.model.rules import Site
from tests.model.steps import Held, Job, Refused, Transaction, fenced, look, put
from tests.model.world import (
    LIVE,
    OPEN,
    RETIRED,
    SEALED,
    STATS,
    VERIFIED,
    WRITTEN,
    File,
    Object,
    Row,
    Rows,
    World,
)


def archive(site: Site) -> Job[None]:
    """Finish what an earlier run left, then move what is hot."""
    from tests.model.erasing import finish_erasures

    held = yield from begin_job(site)
    yield from finish_erasures(held)
    yield from finish_left(held)
    key = yield fenced("seal", held, _seal)
    if key is not None:
        yield from settle(held, key)


def finish_left(held: Held) -> Job[None]:
    """Carry what an earlier run sealed to the end."""

    def left(world: World) -> tuple[int, ...]:
        ledger = world.databases[held.site.database].ledger
        return tuple(file.key for file in ledger if file.table is not None)

    for key in (yield look("open_files", left)):
        yield from settle(held, key)


def _seal(tx: Transaction) -> int | None:
    """attached -> sealed."""
    if not tx.database.hot or (tx.database.pinned and tx.site.rules.pins):
        return None
    seq = tx.next_seq()
    tx.write(File(seq, STATS, SEALED, seq, table=tx.database.hot))
    tx.set(hot=())
    return seq


def settle(held: Held, key: int) -> Job[None]:
    """Carry a slice from whatever state it is in to live; an object that differs is replaced once."""
    key = yield from _prove_or_send_back(held, key)

    def live(tx: Transaction) -> None:
        tx.write(tx.file(key, VERIFIED)._replace(state=LIVE, table=None))

    yield fenced("mark_live", held, live)


def _prove_or_send_back(held: Held, key: int) -> Job[int]:
    if (yield from _prove(held, key)):
        return key
    again = yield fenced("send_back", held, lambda tx: _send_back(tx, key))
    yield from delete_objects(held, [key])
    if not (yield from _prove(held, again)):
        raise Refused("VerificationFailed")
    return again


def _prove(held: Held, key: int) -> Job[bool]:
    """Up to verified; False where the object is not what it must be."""
    file = yield look("get", lambda world: world.databases[held.site.database].file(key))
    if file is None or file.table is None:
        raise Refused("LeaseLost")
    rows = file.facts
    if file.state == SEALED:
        rows = yield look("export", lambda world: _exported(world, held, key))
        yield from put(held.site, [Object(key, STATS, held.owner, file.seq, rows)])
        yield mark_written(held, key, rows)
    if file.state == VERIFIED and not held.site.rules.prove_again:
        return True
    found = yield look("read back", lambda world: world.whole(key))
    if held.site.rules.read_back and (found is None or found.rows != rows):
        return False
    return (yield fenced("mark_verified", held, lambda tx: _mark_verified(tx, key)))


def _exported(world: World, held: Held, key: int) -> Rows:
    database = world.databases[held.site.database]
    file = database.file(key)
    if file is None or file.table is None:
        return ()
    return tuple(
        Row(row.video, row.version, file.seq)
        for row in file.table
        if row.video not in database.barred
    )


def _mark_verified(tx: Transaction, key: int) -> bool:
    """written -> verified, if PostgreSQL counts as many rows."""
    file = tx.file(key, WRITTEN, VERIFIED)
    counted = [row for row in file.table or () if row.video not in tx.database.barred]
    if len(counted) != len(file.facts or ()):
        return False
    tx.write(file._replace(state=VERIFIED))
    return True


def _send_back(tx: Transaction, key: int) -> int:
    """Any open state -> sealed, under a new name; the old one is remembered until it is deleted."""
    file = tx.file(key, *OPEN)
    again, dropped = tx.fresh(), tx.next_seq()
    tx.write(
        file._replace(key=again, state=SEALED, facts=None),
        File(key, STATS, RETIRED, dropped, facts=()),
    )
    return again
