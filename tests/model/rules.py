"""The rules of the protocol, each of which can be broken, and what the services may do wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


@dataclass(frozen=True)
class Rules:
    """What keeps the promises. A field that is False is a broken line of the code."""

    #: A step's transaction finds its own fence, or changes nothing.
    fenced: bool = True
    #: An object's name is free, or nothing is written.
    create_only: bool = True
    #: What was put before a put that failed stays: another history may count it.
    leave_what_was_put: bool = True
    #: What was written is read back before it counts.
    read_back: bool = True
    #: ... and once more where an earlier process did it.
    prove_again: bool = True
    #: A seal begins a table of its own, with a number higher than every earlier one.
    rising_seq: bool = True
    #: A run begins where vault and database carry the same epoch.
    compare_epoch: bool = True
    #: The nonce of the next swap is committed before the swap.
    announce: bool = True
    #: Clean-up, erasure and abandoning delete what the ledger calls dead, nothing else.
    only_the_dead: bool = True
    #: What is going to be deleted is announced in the vault.
    condemn: bool = True
    #: Between announcement and deletion the epoch is found to be our own.
    check_epoch: bool = True
    #: An output that a dead job left counts if its object is whole.
    roll_forward: bool = True
    #: Inputs retire once every output of their batch is there.
    whole_batches: bool = True
    #: Own objects that the ledger does not name count from now on.
    take_in: bool = True
    #: Without an adoption slices from after the ledger's last one are a reason to stop.
    refuse_the_future: bool = True
    #: What a dead replacement was to replace lies in the vault.
    batch_records: bool = True
    #: ... and was put there before its first output.
    record_first: bool = True
    #: At an adoption hot rows give way to slices that were sealed after the backup.
    drop_stale: bool = True
    #: Numbers of appended rows are not taken for slices.
    tell_slices: bool = True
    #: An adoption that died goes on from where it began.
    keep_adopting_from: bool = True
    #: An adoption carries open slices to the end.
    finish_slices: bool = True
    #: The vault remembers forgotten ids.
    erasure_records: bool = True
    #: ... also ids that a dead erasure barred, before any job drops rows of theirs.
    record_unfinished: bool = True
    #: Ids are barred before anything of theirs is deleted.
    bar_first: bool = True
    #: What waits on this machine is delivered before it is looked for.
    flush_first: bool = True
    #: A database does not begin in a vault that carries another owner's mark.
    one_owner: bool = True
    #: The mark of the prefix is created once, by create-only.
    owner_claimed: bool = True
    #: The epoch is taken over before the files are listed.
    epoch_before_listing: bool = True
    #: Rows that were restored carry their number.
    restored_seq: bool = True
    #: A pinned span is not sealed.
    pins: bool = True
    #: The name of appended rows depends on what was appended before.
    chained_names: bool = True
    #: ... and on whose machine it was.
    names_of_hosts: bool = True
    #: A slice's number is above those of all rows that were taken in.
    above_rows: bool = True
    #: A reader looks again where files were adopted while it looked.
    look_again: bool = True
    #: The ledger remembers what was adopted and deleted for as long as a scan may take.
    remember_adopted: bool = True
    #: A reader looks at its machine's spool before it lists the vault.
    spool_first: bool = True
    #: Replaced files outlive the longest scan.
    grace: bool = True
    #: Rows of videos are deleted in the transaction that makes their file live.
    delete_when_live: bool = True
    #: ... only those that still are what was written.
    same_version: bool = True
    #: The janitor leaves videos whose documents wait on this machine.
    documents_first: bool = True
    #: Ids in files of removed videos are not collected again.
    remember_collected: bool = True


class Fault(StrEnum):
    """What a service may do to a write, besides what it was asked for."""

    LOST = "lost"  # done, and the answer is lost
    LATE = "late"  # told as failed, and done later
    DAMAGED = "damaged"  # what arrives cannot be decoded


class Site(NamedTuple):
    """Where a job works: the number of its database, and by which rules.

    With ``split`` a file has room for one row, so that jobs have several outputs. On a ``hub`` several
    objects are one commit, and a late write fails if another one came before. ``coarse`` takes the begin of a
    run for one step; it has searches of its own.
    """

    database: int
    rules: Rules = Rules()
    faults: frozenset[Fault] = frozenset()
    split: bool = False
    hub: bool = False
    coarse: bool = True
