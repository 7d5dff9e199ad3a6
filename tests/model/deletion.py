"""Deleting objects of data folders. Mirrors `atlas.archive.recovery.deletion`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.model.steps import Held, Job, Refused, Step, Transaction, fenced, look, moved
from tests.model.world import GONE, METRICS, RETIRED, World, ordered


def delete_objects(held: Held, keys: Collection[int]) -> Job[None]:
    """Announce, find the epoch to be ours, delete, the announcement last, note."""
    if not keys:
        return
    site = held.site
    announced = tuple(sorted(keys))

    def condemn(world: World) -> list[tuple[World, Any]]:
        condemned = ordered([*world.condemned, announced])
        return [(moved(site, world._replace(condemned=condemned)), None)]

    def delete(world: World) -> list[tuple[World, Any]]:
        return [(moved(site, world.without_objects(announced)), None)]

    def acquit(world: World) -> list[tuple[World, Any]]:
        condemned = tuple(one for one in world.condemned if one != announced)
        return [(moved(site, world._replace(condemned=condemned)), None)]

    if site.rules.condemn:
        yield Step("condemn", condemn)
    if site.rules.check_epoch:
        mark = yield look("check_epoch", lambda world: world.mark(held.owner))
        if mark != held.mark:
            raise Refused("EpochBehind")
    # names are never used again, so that a late deletion harms nothing
    yield Step("delete", delete)
    if site.rules.condemn:
        yield Step("acquit", acquit)
    yield fenced("gone", held, lambda tx: _gone(tx, keys))


def _gone(tx: Transaction, keys: Collection[int]) -> None:
    """retired -> gone. Adopted files, of which there are many, leave the ledger once no scan looks."""
    for key in keys:
        file = tx.database.file(key)
        if file is not None and file.state == RETIRED:
            tx.write(file._replace(state=GONE, facts=()))
    if tx.site.rules.remember_adopted and any(one.job == "read" for one in tx.world.processes):
        return
    kept = [file for file in tx.database.ledger if (file.folder, file.state) != (METRICS, GONE)]
    tx.set(ledger=tuple(kept))
