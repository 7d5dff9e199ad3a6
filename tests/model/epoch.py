"""Who may begin: fence, owner and epoch. Mirrors `atlas.archive.jobs`, `lock`, `epoch` and `ownership`."""

from __future__ import annotations

from typing import Any

from tests.model.rules import Rules, Site
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
    theirs = yield look("check_owner", lambda world: owner_of(world, site.rules))
    control = yield look("control", lambda world: world.databases[site.database])
    if theirs not in (0, control.owner):
        raise Refused("WrongVault")
    control = yield from _claim_vault(site)
    owner = control.owner
    if not theirs:
        yield from claim_prefix(site, owner)
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


def _claim_vault(site: Site) -> Job[Database]:
    """The control row, with an owner's mark."""

    def draw(tx: Transaction) -> Database:
        if not tx.database.owner:
            tx.set(owner=tx.fresh())
        return tx.database

    return (yield transaction("claim_vault", site, draw))


def owner_of(world: World, rules: Rules) -> int:
    """Whose the vault is, as its objects say; 0: nobody's."""
    if not rules.one_owner:
        return 0
    marks = [mark.owner for mark in world.marks]
    return world.prefix_owner or (marks[0] if marks else 0)


def claim_prefix(site: Site, owner: int) -> Job[None]:
    """Create the mark of the prefix; whoever comes second finds it taken."""

    def effect(world: World) -> list[tuple[World, Any]]:
        if world.prefix_owner not in (0, owner):
            return [(world, Refusal("WrongVault"))]
        return [(world._replace(prefix_owner=owner), None)]

    if site.rules.owner_claimed and site.rules.one_owner:
        yield Step("claim_prefix", effect)


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
