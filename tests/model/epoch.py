"""Who may begin: fence, owner and epoch. Mirrors `atlas.archive.jobs`, `lock`, `epoch` and `ownership`."""

from __future__ import annotations

from typing import Any

from tests.model.rules import Site
from tests.model.steps import (
    Held,
    Job,
    Refusal,
    Refused,
    Step,
    Transaction,
    atomically,
    compare_and_swap,
    look,
    transaction,
)
from tests.model.taking import take_in
from tests.model.world import Database, Mark, World


def begin_job(site: Site) -> Job[Held]:
    """The archive lock, with database and vault proved to belong together and the ledger up to its vault."""
    if site.coarse:
        untroubled = site._replace(faults=frozenset())
        held: Held = yield atomically("begin", lambda: advance_epoch(untroubled))
        held = held._replace(site=site)
    else:
        held = yield from advance_epoch(site)
    yield from take_in(held)
    return held


def take_fence(site: Site) -> Job[int]:
    """Draw a number that every step must find unchanged."""

    def work(tx: Transaction) -> int:
        tx.set(fence=tx.database.fence + 1)
        return tx.database.fence

    return (yield transaction("take_fence", site, work))


def advance_epoch(site: Site) -> Job[Held]:
    """Begin: prove that vault and database belong together, and move both one epoch on."""
    fence = yield from take_fence(site)
    control = yield from check_owner(site, fence)
    owner = control.owner
    found = yield _read(owner)
    if found is not None and (found.epoch, found.nonce) == (control.epoch + 1, control.pending):
        # our own swap of a job that died before it could record it
        control = yield from _record(site, fence, found)
    recorded = Mark(owner, control.epoch, control.nonce) if control.nonce else None
    if found != recorded and site.rules.compare_epoch:
        raise Refused("EpochBehind")
    mark = Mark(owner, control.epoch + 1, (yield from _announce(site, fence)))
    if not (yield compare_and_swap(site, owner, recorded, mark)):
        found = yield _read(owner)
        if found != mark:
            raise Refused("EpochBehind")
    yield from _record(site, fence, mark)
    return Held(site, fence, mark)


def check_owner(site: Site, fence: int, *, on_word: bool = False) -> Job[Database]:
    """The control row. Refused where the vault is another's; ``on_word`` a person says that it is not."""

    def vaults(world: World) -> int:
        marks = [mark.owner for mark in world.marks]
        return world.prefix_owner or (marks[0] if marks else 0)

    theirs = yield look("owners_of", vaults)
    if not site.rules.one_owner:
        theirs = 0 if not on_word else theirs

    def draw(tx: Transaction) -> Database:
        if not tx.database.owner:
            tx.set(owner=theirs if on_word and theirs else tx.fresh())
        return tx.database

    database = yield look("control", lambda world: world.databases[site.database])
    if theirs and database.owner != theirs and not (on_word and not database.nonce):
        raise Refused("WrongVault")
    if not database.owner:
        database = yield transaction("draw owner", site, draw, fence=fence)
    if site.rules.owner_claimed and site.rules.one_owner and not theirs:
        yield Step("claim_prefix", lambda world: [_claimed(world, database.owner)])
    return database


def _claimed(world: World, owner: int) -> tuple[World, Any]:
    """Create the mark of the prefix; whoever comes second finds it taken."""
    if world.prefix_owner not in (0, owner):
        return world, Refusal("WrongVault")
    return world._replace(prefix_owner=owner), None


def _announce(site: Site, fence: int) -> Job[int]:
    def work(tx: Transaction) -> int:
        if not site.rules.announce:
            return tx.fresh()
        # one that was announced and never seen is announced again: its swap may still arrive
        tx.set(pending=tx.database.pending or tx.fresh())
        return tx.database.pending

    return (yield transaction("announce", site, work, fence=fence))


def _record(site: Site, fence: int, mark: Mark) -> Job[Database]:
    def work(tx: Transaction) -> Database:
        tx.set(epoch=mark.epoch, nonce=mark.nonce, pending=0)
        return tx.database

    return (yield transaction("set_epoch", site, work, fence=fence))


def _read(owner: int) -> Step:
    def query(world: World) -> Mark | None:
        return world.mark(owner)

    return look("read epoch", query)
