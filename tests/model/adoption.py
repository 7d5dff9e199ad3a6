"""A database that a person makes the vault's own. Mirrors `atlas.archive.recovery.adoption`."""

from __future__ import annotations

from typing import Any

from tests.model.archiving import finish_left
from tests.model.environment import owed_to
from tests.model.epoch import claim_prefix, owner_of, take_fence
from tests.model.rules import Site
from tests.model.steps import Held, Job, Refused, Step, Transaction, compare_and_swap, fenced, look
from tests.model.taking import Adoption, take_in
from tests.model.world import Database, Mark, World


def adopt(site: Site, argument: str = "") -> Job[None]:
    """Swap the epoch, take in what the vault holds, then record the epoch.

    ``argument`` "set aside" leaves out the slices that a copy wrote. A rebuild is an adoption by a database
    that never ran.
    """
    fence = yield from take_fence(site)
    control: Database = yield look("control", lambda world: world.databases[site.database])
    theirs = yield look("choose_owner", lambda world: owner_of(world, site.rules))
    if control.nonce and theirs not in (0, control.owner):
        raise Refused("WrongVault")
    owner = control.owner if control.nonce else theirs or control.owner
    owner, since = yield from _begin(site, fence, owner)
    yield from claim_prefix(site, owner)
    adoption = Adoption(since, argument == "set aside")
    found = yield look("read epoch", lambda world: world.mark(owner))
    nonce = yield look("draw a nonce", lambda world: -world.clock)
    mark = Mark(owner, max(control.epoch, found.epoch if found else 0) + 1, nonce)
    held = Held(site, fence, mark)
    if not site.rules.epoch_before_listing:
        yield from take_in(held, adoption)
    if not (yield _swap_for_adoption(site, found, mark)):
        raise Refused("EpochBehind")
    if site.rules.epoch_before_listing:
        yield from take_in(held, adoption)
    if site.rules.finish_slices:
        yield from finish_left(held)

    def finish(tx: Transaction) -> None:
        tx.set(epoch=mark.epoch, nonce=mark.nonce, pending=0, adopting_from=None, adopted=True)

    yield fenced("set_epoch", held, finish)


def _begin(site: Site, fence: int, owner: int) -> Job[tuple[int, int]]:
    """Become the owner's, and note what the ledger knew when this adoption, or one that died, began."""

    def begin(tx: Transaction) -> tuple[int, int]:
        tx.set(owner=owner or tx.fresh())
        if tx.database.adopting_from is None or not site.rules.keep_adopting_from:
            highest = max([0, *(file.seq for file in tx.database.ledger)])
            tx.set(adopting_from=highest)
        since = tx.database.adopting_from
        assert since is not None
        return tx.database.owner, since

    return (yield fenced("begin adoption", Held(site, fence, Mark(0, 0, 0)), begin))


def _swap_for_adoption(site: Site, before: Mark | None, after: Mark) -> Step:
    """From here on the other side cannot begin a job; what it has made live must be shown here."""
    swap = compare_and_swap(site, after.owner, before, after)

    def effect(world: World) -> list[tuple[World, Any]]:
        return [(owed_to(one, site.database), result) for one, result in swap.effect(world)]

    return Step(swap.label, effect)
