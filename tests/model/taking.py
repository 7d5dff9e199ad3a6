"""Bringing a ledger up to its vault, at the begin of every job. Mirrors `atlas.archive.recovery.taking`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.model.steps import Held, Job, Refused, Step, Transaction, fenced, look
from tests.model.world import (
    ASIDE,
    GONE,
    LIVE,
    OPEN,
    RETIRED,
    STATS,
    VIDEOS,
    Bar,
    Batch,
    Database,
    File,
    Object,
    World,
    ordered,
)


class Adoption(NamedTuple):
    """What an adoption does besides: slices above ``since`` were sealed after the backup."""

    since: int
    set_aside: bool = False


class Contents(NamedTuple):
    """What a vault holds of an owner: ``keys`` are those that are not condemned, ``slices`` the numbers of
    files that were no merges."""

    objects: tuple[Object, ...]
    keys: frozenset[int]
    condemned: frozenset[int]
    records: tuple[Batch, ...]
    slices: frozenset[int]

    def whole(self, database: Database, key: int) -> Object | None:
        """The object of a file that a dead job left, if it is what the ledger says."""
        file = database.file(key)
        for one in self.objects:
            if one.key == key and key not in self.condemned:
                return one if file is not None and file.facts in (None, one.rows) else None
        return None


def take_in(held: Held, adoption: Adoption | None = None) -> Job[None]:
    """Bar what was forgotten, count what the ledger does not name, retire what was replaced."""
    if not held.site.rules.take_in:
        return
    yield from _read_erasures(held)
    # announcements before the listing: what is in neither was deleted before
    condemned = yield look("read condemned", _condemned)
    contents: Contents = yield look("list", lambda world: _contents(world, held, condemned))
    database: Database = yield look("ledger", held.database)
    if adoption is None and held.site.rules.refuse_the_future:
        _refuse_the_future(database, contents)
    left = _left(database)
    if left and not held.site.rules.roll_forward:
        yield from _abandon(held, left)
        left = ()
    for key in left:
        one = contents.whole(database, key)
        if one is None:
            yield fenced("give_up", held, lambda tx, key=key: _give_up(tx, key))
        else:
            yield fenced("forward", held, lambda tx, one=one: _forward(tx, one))
    for one in reversed(contents.objects):  # in no order that helps
        if database.file(one.key) is None:
            yield fenced("take", held, lambda tx, one=one: _take(tx, one, contents, adoption))
    database = yield look("ledger", held.database)
    replaced = _replaced(held, database, contents)
    if replaced:
        yield fenced("retire_replaced", held, lambda tx: _retire(tx, replaced, contents))


def _read_erasures(held: Held) -> Job[None]:
    """Bar the ids of records; ids that are barred without a record get one."""

    def unknown(world: World) -> tuple[str, ...]:
        barred = held.database(world).barred
        return tuple(v for owner, v in world.erasures if owner == held.owner and v not in barred)

    def bar(tx: Transaction) -> None:
        tx.set(bars=ordered([*tx.database.bars, *(Bar(video, False) for video in erased)]))

    def unrecorded(world: World) -> tuple[str, ...]:
        bars = held.database(world).bars
        unfinished = (bar.video for bar in bars if not bar.erased)
        return tuple(v for v in unfinished if (held.owner, v) not in world.erasures)

    if held.site.rules.erasure_records and held.site.rules.record_unfinished:
        for video in (yield look("unrecorded", unrecorded)):
            yield put_erasure(held, video)
    erased = yield look("list erasures", unknown)
    if erased:
        yield fenced("bar recorded", held, bar)


def put_erasure(held: Held, video: str) -> Step:
    """The vault knows that the video is forgotten."""

    def effect(world: World) -> list[tuple[World, None]]:
        erasures = ordered([*world.erasures, (held.owner, video)])
        return [(world._replace(erasures=erasures), None)]

    return Step("put erasure", effect)


def _condemned(world: World) -> frozenset[int]:
    return frozenset(key for keys in world.condemned for key in keys)


def _contents(world: World, held: Held, condemned: frozenset[int]) -> Contents:
    own = [
        one for one in world.objects if one.owner == held.owner and one.folder in (STATS, VIDEOS)
    ]
    records = tuple(one for one in world.batches if one.owner == held.owner)
    slices = {one.seq for one in own if one.folder == STATS and not one.batch}
    return Contents(
        tuple(one for one in own if one.whole),
        frozenset(one.key for one in world.objects) - condemned,
        condemned,
        records,
        frozenset(slices.union(*(record.slices for record in records))),
    )


def _refuse_the_future(database: Database, contents: Contents) -> None:
    """Slices from after the ledger's last one can only come from this history's own future."""
    highest = max([0, *(file.seq for file in database.ledger)])
    for one in contents.objects:
        is_slice = one.folder == STATS and not one.batch and one.key not in contents.condemned
        if is_slice and one.seq > highest and database.file(one.key) is None:
            raise Refused("EpochBehind")


def _left(database: Database) -> tuple[int, ...]:
    """Open files that have no table: outputs of replacements, and files of videos."""
    return tuple(one.key for one in database.ledger if one.state in OPEN and one.table is None)


def _forward(tx: Transaction, one: Object) -> None:
    """What a dead job left is whole: it counts, beside what it was made from."""
    tx.write(tx.file(one.key, *OPEN)._replace(state=LIVE, facts=one.rows))


def _give_up(tx: Transaction, key: int) -> None:
    """It is not; what arrives later finds that it is gone."""
    tx.write(tx.file(key, *OPEN)._replace(state=GONE, facts=()))


def _abandon(held: Held, keys: Sequence[int]) -> Job[None]:
    """What was done before: delete the objects at once, and forget that they were."""
    from tests.model.deletion import delete_objects

    def abandon(tx: Transaction) -> None:
        tx.set(ledger=tuple(file for file in tx.database.ledger if file.key not in keys))

    yield from delete_objects(held, keys)
    yield fenced("abandon", held, abandon)


def _take(tx: Transaction, one: Object, contents: Contents, adoption: Adoption | None) -> None:
    """An own object that the ledger does not name: the database went back."""
    state = LIVE
    if one.key in contents.condemned:
        state = GONE
    elif adoption and adoption.set_aside and not one.batch and one.seq > adoption.since:
        # written by a copy, which ran while this database, the original, did not know
        state = ASIDE
    tx.write(File(one.key, one.folder, state, one.seq, None, one.rows, one.batch))
    highest = [one.seq, *(row.seq for row in one.rows)] if tx.site.rules.above_rows else [one.seq]
    tx.set(last_seq=max([tx.database.last_seq, *highest]))
    if state == LIVE and one.folder == VIDEOS and tx.site.rules.remember_collected:
        tx.set(collected=ordered({*tx.database.collected, *(row.video for row in one.rows)}))
    is_later = state == LIVE and one.folder == STATS and adoption and not adoption.set_aside
    if is_later and tx.site.rules.drop_stale:
        _drop_stale(tx, one, contents, adoption.since)


def _drop_stale(tx: Transaction, one: Object, contents: Contents, since: int) -> None:
    """Hot rows give way to the slice that was sealed from them, or from what had replaced them.

    Numbers of appended rows say nothing of the kind.
    """
    newer = {
        row.video
        for row in one.rows
        if row.seq > since and (row.seq in contents.slices or not tx.site.rules.tell_slices)
    }
    tx.set(hot=tuple(row for row in tx.database.hot if row.seq or row.video not in newer))


def _replaced(held: Held, database: Database, contents: Contents) -> tuple[int, ...]:
    """Live files that complete batches replaced."""
    complete: dict[int, bool] = {}

    def is_there(key: int) -> bool:
        file = database.file(key)
        if file is not None and file.state == LIVE and key in contents.keys:
            return True
        return any(key in one.replaced and is_complete(one) for one in contents.records)

    def is_complete(record: Batch) -> bool:
        if record.number not in complete:
            there = [is_there(key) for key in record.outputs]
            rule = all if held.site.rules.whole_batches else _any
            complete[record.number] = rule(there)
        return complete[record.number]

    replaced = {key for one in contents.records if is_complete(one) for key in one.replaced}
    # a slice that was sent back has two names: one stands for the other
    live = [database.file(key) for key in database.keys(LIVE)]
    there = {(one.folder, one.seq, one.facts) for one in live if one.key in contents.keys}
    replaced |= {
        one.key
        for one in live
        if one.key not in contents.keys and (one.folder, one.seq, one.facts) in there
    }
    return tuple(key for key in database.keys(LIVE) if key in replaced)


def _any(there: Sequence[bool]) -> bool:
    return not there or any(there)


def _retire(tx: Transaction, keys: Sequence[int], contents: Contents) -> None:
    """What a complete batch replaced counts no more; what is missing besides is gone."""
    for key in keys:
        state = RETIRED if key in contents.keys else GONE
        tx.write(tx.file(key, LIVE)._replace(state=state))
