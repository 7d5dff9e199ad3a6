"""Taking in what the vault holds and the ledger does not know; see docs/adoption.md.

In an undisturbed database this finds what a job that died has left. Anything else is the sign that the
database went back: files of its own future, and names of files that were replaced since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from atlas.archive.recovery.examination import (
    NOT_WHOLE,
    Footer,
    Sieve,
    examine,
    raise_if_no_damage,
    whole,
)
from atlas.archive.recovery.forgotten import bar_recorded
from atlas.archive.recovery.view import View, look
from atlas.archive.session import Steps
from atlas.errors import EpochBehind
from atlas.logging import get_logger
from atlas.repositories.erasure import Erasure
from atlas.repositories.hot.stale import StaleSamples
from atlas.repositories.ledger.adoption import FoundFile, LedgerAdoption
from atlas.repositories.ledger.digests import ErasedDigests
from atlas.repositories.ledger.files import FileRecord
from atlas.types import ArchiveState, Dataset, Progress
from atlas.vault.offload import offload
from atlas.vault.records import BatchRecord, read_batches
from atlas.vault.temporary import workdir

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Adopting:
    """On a person's word: ``since`` is the highest ``seq`` of samples that the ledger knew when it began.

    With ``set_aside`` slices above it are a copy's, and do not count.
    """

    since: int
    set_aside: bool = False


@dataclass(slots=True)
class Taken:
    """What was taken in."""

    files: int = 0
    rows: int = 0
    bytes: int = 0
    only_there: int = 0
    aside: int = 0
    forgotten: int = 0
    collected: int = 0
    stale_rows: int = 0
    replaced: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def count(self, found: FoundFile) -> None:
        """A file that counts from now on."""
        self.files += 1
        self.rows += found.facts.row_count
        self.bytes += found.facts.byte_size
        self.collected += len(found.finished)


async def take_in(
    steps: Steps, adopting: Adopting | None = None, progress: Progress | None = None
) -> Taken:
    """Make the ledger name what the vault holds, and no more than that.

    Raises `EpochBehind` where, without a person's word, there are slices from after the ledger's last one.
    """
    taken = Taken(forgotten=await bar_recorded(steps))
    view = await look(steps.database, steps.store, steps.owner, again=adopting is not None)
    if adopting is None:
        _refuse_the_future(view)
    await _leave(steps, view, taken)
    if view.is_undisturbed:
        return taken
    batches = await _batches(steps, view, all_of_them=adopting is not None or bool(view.missing))
    make_sieve = await _sieves(steps, view, batches, adopting)
    for file in view.left:
        await _forward(steps, file, view, batches, make_sieve())
    for number, (key, footer) in enumerate(view.found.items()):
        if progress is not None:
            progress(number, len(view.found), key)
        with workdir() as folder:
            await _take(steps, key, footer, view, make_sieve(), adopting, taken, folder)
    await _replace(steps, view, batches, taken)
    log.warning(
        "archive_files_taken_in",
        files=taken.files,
        replaced=len(taken.replaced),
        missing=len(taken.missing),
        left=len(view.left),
    )
    return taken


def replaced_keys(batches: Iterable[BatchRecord], there: Collection[str]) -> frozenset[str]:
    """What complete batches replaced: those whose outputs are all there, or were replaced themselves."""
    waiting, replaced = list(batches), set[str]()
    while True:
        complete = [
            one for one in waiting if all(key in there or key in replaced for key in one.outputs)
        ]
        if not complete:
            return frozenset(replaced)
        for one in complete:
            replaced.update(one.replaced)
        waiting = [one for one in waiting if one not in complete]


def same_slice(file: FileRecord) -> tuple[object, ...]:
    """What two files that hold the same rows have in common: a slice that was sent back has two names.

    Both count, because another history may delete one of them. Where one is missing the other stands for it.
    """
    return file.dataset, file.seq, file.row_count, file.fingerprint


def _refuse_the_future(view: View) -> None:
    highest = view.highest_seq
    later = [
        key
        for key, footer in view.found.items()
        if footer.new.dataset is Dataset.STATS
        and not footer.new.merged
        and footer.new.seq > highest
        and key not in view.condemned
    ]
    if later:
        raise EpochBehind(
            f"the vault holds {len(later)} slices of this database from after the last one that it "
            f"knows, {later[0]} for one: it went back, or a copy of it is at work",
            hint="run `atlas vault adopt`, before collectors start",
        )


async def _leave(steps: Steps, view: View, taken: Taken) -> None:
    """Remember what is not this database's, so that it is looked at once."""
    if not view.skipped:
        return
    taken.skipped += [f"{key}: {why}" for key, why in view.skipped.items()]
    async with steps.database.transaction() as session:
        ledger = LedgerAdoption(session, steps.fence)
        await ledger.hold()
        for key, why in view.skipped.items():
            await ledger.leave_unclaimed(key, why)


async def _batches(steps: Steps, view: View, *, all_of_them: bool) -> list[BatchRecord]:
    wanted = {one.new.batch_id for one in view.found.values() if one.new.merged}
    wanted |= {file.batch_id for file in view.left}
    return await offload(read_batches, steps.store, steps.owner, None if all_of_them else wanted)


async def _sieves(
    steps: Steps, view: View, batches: list[BatchRecord], adopting: Adopting | None
) -> Callable[[], Sieve]:
    """What makes a sieve for each file: what to look for in its rows."""
    async with steps.database.transaction(read_only=True) as session:
        forgotten = frozenset(await Erasure(session).forgotten())
        digests = await ErasedDigests(session).all()
        slices = _later_slices(view, batches, adopting)
        hot = pa.array(await StaleSamples(session).hot_hours(), pa.int64()) if slices else None
    owner = steps.owner

    def make() -> Sieve:
        return Sieve(owner, forgotten, digests, slices.__contains__, hot)

    return make


def _later_slices(
    view: View, batches: list[BatchRecord], adopting: Adopting | None
) -> frozenset[int]:
    """Numbers of slices that were sealed after this database's last one: what is hot here and in them is
    older. Numbers of appended rows are not among them."""
    if adopting is None:
        return frozenset()
    seqs = {seq for one in batches for seq in one.slices}
    for file in view.ledger.values():  # taken in by an adoption that died
        if file.dataset == Dataset.STATS and not file.merged and file.state != ArchiveState.ASIDE:
            seqs.add(file.seq)
    if not adopting.set_aside:
        for footer in view.found.values():
            if footer.new.dataset is Dataset.STATS and not footer.new.merged:
                seqs.add(footer.new.seq)
    return frozenset(seq for seq in seqs if seq > adopting.since)


async def _examined(
    steps: Steps, key: str, sieve: Sieve, folder: Path
) -> tuple[FoundFile | None, str | None]:
    """A file read whole, or why it is none; both None where there is no such object."""
    why = ""
    for _ in range(2):  # what is judged dead or left out must not be so for a read that went wrong
        try:
            return await offload(examine, steps.store, key, folder, sieve), None
        except NOT_WHOLE as error:
            raise_if_no_damage(error)
            why = f"not a whole file of Atlas: {error}"
    return None, why


async def _forward(
    steps: Steps, file: FileRecord, view: View, batches: list[BatchRecord], sieve: Sieve
) -> None:
    """A file of a job that died: it counts where it is whole, beside what it was made from, or never will."""
    found: FoundFile | None = None
    why: str | None = "it is condemned"
    if file.object_key not in view.condemned:
        with workdir() as folder:
            found, why = await _examined(steps, file.object_key, sieve, folder)
    is_whole = whole(found, [file.sha256]) and found is not None and found.new.seq == file.seq
    inputs = [key for one in batches for key in one.inputs_of(file.object_key)]
    if found is None and why and file.object_key not in view.condemned and not view.counts(inputs):
        # the database went back, and nothing else may hold its rows: for a person to mend
        log.error("archive_output_damaged", key=file.object_key, why=why)
        return
    async with steps.database.transaction() as session:
        ledger = LedgerAdoption(session, steps.fence)
        await ledger.hold()
        if is_whole and found is not None:
            await ledger.forward(file, found)
            await _bar(ledger, sieve)
        else:
            await ledger.give_up([file])
    log.info("archive_output_settled", key=file.object_key, live=is_whole, why=why)


async def _take(
    steps: Steps,
    key: str,
    footer: Footer,
    view: View,
    sieve: Sieve,
    adopting: Adopting | None,
    taken: Taken,
    folder: Path,
) -> None:
    """An own file that the ledger does not name: from the commit on it does."""
    found, why = await _examined(steps, key, sieve, folder)
    if found is None and why is None:
        return  # deleted since it was listed
    later = adopting is not None and footer.new.seq > adopting.since
    aside = (
        adopting is not None
        and adopting.set_aside
        and later
        and not footer.new.merged
        and footer.new.dataset is Dataset.STATS
    )
    async with steps.database.transaction() as session:
        ledger = LedgerAdoption(session, steps.fence)
        await ledger.hold()
        if found is None:
            await ledger.leave_unclaimed(key, why or "")
            taken.skipped.append(f"{key}: {why}")
            return
        if key in view.condemned:
            await ledger.write(found, steps.store.identity, ArchiveState.GONE)
            return
        if aside:
            await ledger.write(found, steps.store.identity, ArchiveState.ASIDE)
            taken.aside += 1
            return
        await ledger.take(found, steps.store.identity)
        stale = await StaleSamples(session).remove(sieve.later)
        await _bar(ledger, sieve)
    taken.count(found)
    taken.stale_rows += stale
    if later and not footer.new.merged and footer.new.dataset is Dataset.STATS:
        taken.only_there += found.facts.row_count


async def _bar(ledger: LedgerAdoption, sieve: Sieve) -> None:
    """The file holds rows of forgotten ids: their erasure is done again by the next run."""
    if sieve.met:
        await ErasedDigests(ledger.session).met(sieve.met)
        await Erasure(ledger.session).bar(sorted(sieve.met))


async def _replace(steps: Steps, view: View, batches: list[BatchRecord], taken: Taken) -> None:
    """What complete batches replaced counts no more."""
    missing = {file.object_key for file in view.missing}
    async with steps.database.transaction() as session:
        ledger = LedgerAdoption(session, steps.fence)
        await ledger.hold()
        files = [file for file in await ledger.all_files() if file.state == ArchiveState.LIVE]
        live = {file.object_key for file in files}
        there = {same_slice(file) for file in files if file.object_key not in missing}
        replaced = replaced_keys(batches, live - missing)
        replaced |= {file.object_key for file in view.missing if same_slice(file) in there}
        taken.replaced = sorted(missing & replaced)
        taken.missing = sorted((missing & live) - replaced)
        await ledger.mark_gone(missing & replaced & live)
        await ledger.retire((replaced & live) - missing)
