"""Deleting what is dead. Mirrors `atlas.archive.upkeep`."""

from __future__ import annotations

from tests.model.deletion import delete_objects
from tests.model.epoch import begin_job
from tests.model.rules import Site
from tests.model.steps import Job, Transaction, fenced, look
from tests.model.world import GONE, METRICS, RETIRED, World


def collect_garbage(site: Site) -> Job[None]:
    """Delete the objects that the ledger calls dead, past the grace period."""
    held = yield from begin_job(site)

    def listed(world: World) -> tuple[int, ...]:
        return tuple(one.key for one in world.objects if one.folder != METRICS)

    there = yield look("list", listed)

    def dead(tx: Transaction) -> tuple[int, ...]:
        expired = tx.database.keys(RETIRED)
        if site.rules.grace and any(one.job == "read" for one in tx.world.processes):
            expired = ()
        given_up = set(tx.database.keys(GONE))
        if not site.rules.only_the_dead:
            given_up |= {key for key in there if tx.database.file(key) is None}
        return (*expired, *(key for key in there if key in given_up))

    yield from delete_objects(held, (yield fenced("garbage", held, dead)))
