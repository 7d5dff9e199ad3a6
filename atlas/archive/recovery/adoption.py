"""Adopting a vault: a person says that this database is the one that it belongs to; see docs/adoption.md."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from atlas.archive.export.schedule import settle_files
from atlas.archive.export.slices import Run
from atlas.archive.fencing.epoch import read_control, record_adoption, swap_for_adoption
from atlas.archive.maintenance.fsck import stored
from atlas.archive.recovery.examination import NOT_WHOLE, look_at, raise_if_no_damage
from atlas.archive.recovery.ownership import claim_prefix
from atlas.archive.recovery.taking import Adopting, Taken, replaced_keys, same_slice, take_in
from atlas.archive.recovery.view import View, look
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.errors import InvalidInput, WrongVault
from atlas.logging import get_logger
from atlas.repositories.erasure import Erasure
from atlas.repositories.ledger.adoption import LedgerAdoption
from atlas.repositories.ledger.digests import ErasedDigests
from atlas.repositories.ledger.files import Control
from atlas.types import ArchiveState, Dataset, ObjectStore, Progress
from atlas.vault.marks import OtherSide, read_mark
from atlas.vault.offload import offload
from atlas.vault.owners import digest, owners_of
from atlas.vault.records import read_batches, read_erasures

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AdoptReport:
    """What an adoption did, or with ``dry_run`` would do.

    ``other`` is who moved the vault's epoch last, None where there was none. ``files``, ``rows`` and
    ``bytes`` came into the ledger, ``only_there`` of the rows in slices from after this database's last one.
    ``replaced`` are ledger rows whose object is gone because other files took its place; ``missing`` those
    where nothing says so. ``forgotten`` ids were barred, ``collected`` videos are not collected again,
    ``stale_rows`` hot rows were kept aside because the vault has later ones (not counted by a dry run),
    ``aside`` slices of a copy do not count. ``skipped`` are objects that are not this database's, or not
    whole, each with its reason.
    """

    dry_run: bool
    owner: str
    epoch: int
    other: OtherSide | None
    files: int = 0
    rows: int = 0
    bytes: int = 0
    only_there: int = 0
    replaced: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    forgotten: int = 0
    collected: int = 0
    stale_rows: int = 0
    aside: int = 0
    skipped: tuple[str, ...] = ()


async def adopt(
    database: Database,
    store: ObjectStore,
    fence: int,
    wanted: uuid.UUID | None = None,
    *,
    set_aside: bool = False,
    progress: Progress | None = None,
) -> AdoptReport:
    """Bring the ledger up to the vault and take the epoch; see `Archiver.adopt`. Again goes on."""
    control = await read_control(database, store, may_have_moved=True)
    owner = await offload(choose_owner, store, control, wanted) or control.owner or uuid.uuid4()
    other, _ = await offload(read_mark, store, owner)
    async with database.transaction() as session:
        ledger = LedgerAdoption(session, fence)
        await ledger.hold()
        since = await ledger.begin(owner, store.identity)
        control = await ledger.control()
    await offload(claim_prefix, store, owner)
    # from here on no other side begins a job, and no deletion that has not found its epoch yet is carried out
    control = await swap_for_adoption(database, store, control)
    steps = Steps(database, store, control, fence)
    taken = await take_in(steps, Adopting(since, set_aside), progress)
    # a sealed table is shown before any file: what is later in the files would not be seen
    await Run(steps, datetime.min.replace(tzinfo=UTC), None).finish_left()
    # before collectors start: what the schedule's files say is known must be
    await settle_files(steps, progress)
    await record_adoption(database, control, fence)
    await steps.publisher.publish_at_end()
    log.info("vault_adopted", files=taken.files, stale_rows=taken.stale_rows, epoch=control.epoch)
    return _report(taken, owner, control.epoch, None if other is None else other.side)


async def survey(
    database: Database,
    store: ObjectStore,
    wanted: uuid.UUID | None = None,
    *,
    set_aside: bool = False,
) -> AdoptReport:
    """What `adopt` would do, by footers and names; changes nothing."""
    control = await read_control(database, store, may_have_moved=True)
    owner = await offload(choose_owner, store, control, wanted) or control.owner
    if owner is None:
        return AdoptReport(True, "", 1, None)
    other, _ = await offload(read_mark, store, owner)
    view = await look(database, store, owner, again=True)
    async with database.transaction(read_only=True) as session:
        digests = ErasedDigests(session)
        known = await digests.known_records()
        barred = {digest(owner, one) for one in await Erasure(session).forgotten()}
    recorded = await offload(read_erasures, store, owner, known)
    sizes = {info.key: info.size for info in await offload(stored, store)}
    batches = [] if view.is_undisturbed else await offload(read_batches, store, owner)
    taken = _foreseen(view, sizes, control, set_aside=set_aside)
    live = {key for key, file in view.ledger.items() if file.state == ArchiveState.LIVE}
    missing = {file.object_key for file in view.missing}
    replaced = replaced_keys(batches, (live | (view.found.keys() - view.condemned)) - missing)
    there = {same_slice(file) for key, file in view.ledger.items() if key in live - missing}
    there |= {
        (one.new.dataset, one.new.seq, one.rows, one.fingerprint) for one in view.found.values()
    }
    replaced |= {file.object_key for file in view.missing if same_slice(file) in there}
    taken.replaced, taken.missing = sorted(missing & replaced), sorted(missing - replaced)
    taken.forgotten = len({one for found in recorded.values() for one in found} - barred)
    epoch = max(control.epoch, other.epoch if other else 0) + 1
    return replace(
        _report(taken, owner, epoch, None if other is None else other.side), dry_run=True
    )


def _foreseen(view: View, sizes: dict[str, int], control: Control, *, set_aside: bool) -> Taken:
    taken = Taken(skipped=[f"{key}: {why}" for key, why in view.skipped.items()])
    for key, footer in view.found.items():
        later = footer.new.seq > view.highest_seq and not footer.new.merged
        if key in view.condemned:
            continue
        if set_aside and later and footer.new.dataset is Dataset.STATS:
            taken.aside += 1
            continue
        taken.files += 1
        taken.rows += footer.rows
        taken.bytes += sizes.get(key, 0)
        if footer.new.dataset is Dataset.VIDEOS:
            taken.collected += footer.rows
        elif later and footer.new.dataset is Dataset.STATS:
            taken.only_there += footer.rows
    return taken


def _report(taken: Taken, owner: uuid.UUID, epoch: int, other: OtherSide | None) -> AdoptReport:
    return AdoptReport(
        False,
        str(owner),
        epoch,
        other,
        taken.files,
        taken.rows,
        taken.bytes,
        taken.only_there,
        tuple(taken.replaced),
        tuple(taken.missing),
        taken.forgotten,
        taken.collected,
        taken.stale_rows,
        taken.aside,
        tuple(taken.skipped),
    )


def choose_owner(
    store: ObjectStore, control: Control, wanted: uuid.UUID | None
) -> uuid.UUID | None:
    """Whose database this one is to be; None where the vault is nobody's.

    Raises `WrongVault` for a database that archived as another one, `InvalidInput` where the owner is not
    clear.
    """
    owners = set(owners_of(store))
    if control.nonce is not None:
        if wanted not in (None, control.owner) or (owners and control.owner not in owners):
            raise WrongVault(
                f"{store.identity} belongs to {', '.join(map(str, sorted(owners))) or 'nobody'}, this "
                f"database archived as {control.owner}",
                hint="restore the VAULT_* settings that this database was archived with",
            )
        return control.owner
    files = _marks(store) if wanted is not None or len(owners) != 1 else Counter()
    owners |= set(files)
    if wanted is not None and wanted not in owners:
        raise InvalidInput(f"the vault holds no file of {wanted}", field="owner", value=str(wanted))
    if wanted is None and len(owners) > 1:
        named = ", ".join(f"{owner} ({files[owner]} files)" for owner in sorted(owners))
        raise InvalidInput(
            f"the vault holds files of {len(owners)} databases: {named}",
            field="owner",
            hint="say whose ledger is to be written",
        )
    return wanted or next(iter(owners), None)


def _marks(store: ObjectStore) -> Counter[uuid.UUID]:
    """How many files each owner has, by their footers."""
    marks: Counter[uuid.UUID] = Counter()
    for info in stored(store):
        try:
            footer = look_at(store, info.key)
        except NOT_WHOLE as error:
            raise_if_no_damage(error)
            continue
        if footer is not None:
            marks[footer.owner] += 1
    return marks
