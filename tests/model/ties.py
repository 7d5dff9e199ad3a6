"""Where Atlas does what the model's steps do, and what of Atlas is tied to none of them."""

from __future__ import annotations

_LEDGER = "atlas.repositories.ledger"
_HOT = "atlas.repositories.hot"

#: A label of the model: the functions that take this step.
TIES: dict[str, tuple[str, ...]] = {
    "take_fence": (f"{_LEDGER}.control:ControlWriter.take_fence",),
    "claim_vault": (f"{_LEDGER}.control:ControlWriter.claim_vault",),
    "announce": (f"{_LEDGER}.control:ControlWriter.announce",),
    "set_epoch": (f"{_LEDGER}.control:ControlWriter.set_epoch",),
    "begin adoption": (f"{_LEDGER}.adoption:LedgerAdoption.begin",),
    "take": (f"{_LEDGER}.adoption:LedgerAdoption.write",),
    "forward": (f"{_LEDGER}.adoption:LedgerAdoption.forward",),
    "give_up": (f"{_LEDGER}.files:LedgerWriter.give_up",),
    "retire_replaced": (
        f"{_LEDGER}.adoption:LedgerAdoption.retire",
        f"{_LEDGER}.adoption:LedgerAdoption.mark_gone",
    ),
    "seal": (f"{_LEDGER}.files:LedgerWriter.seal",),
    "add": (f"{_LEDGER}.files:LedgerWriter.add",),
    "mark_written": (f"{_LEDGER}.files:LedgerWriter.mark_written",),
    "mark_verified": (f"{_LEDGER}.files:LedgerWriter.mark_verified",),
    "mark_live": (f"{_LEDGER}.files:LedgerWriter.mark_live",),
    "send_back": (f"{_LEDGER}.files:LedgerWriter.send_back",),
    "swap": (f"{_LEDGER}.swap:Replacement.swap",),
    "gone": (f"{_LEDGER}.swap:Replacement.gone",),
    "bar": ("atlas.repositories.erasure:Erasure.bar",),
    "bar recorded": ("atlas.repositories.ledger.digests:ErasedDigests.add",),
    "delete_rows": ("atlas.repositories.erasure:Erasure.delete_rows",),
    "finish": ("atlas.repositories.erasure:Erasure.finish",),
    "pin": (f"{_HOT}.restored:Pins.add",),
    "insert_missing": (f"{_HOT}.restored:StagedSamples.insert_missing",),
    "delete_copies": (f"{_HOT}.restored:RestoredSamples.delete",),
    "unpin": (f"{_HOT}.restored:Pins.remove",),
}

#: Writes of the store, by the folder of the object: (method, beginning of the key, label).
STORE_TIES = (
    ("compare_and_swap", "_atlas/owner.json", "claim_prefix"),
    ("compare_and_swap", "_atlas/epochs/", "compare_and_swap"),
    ("put_files", "_atlas/batches/", "put_batch"),
    ("put_files", "video_stats/", "put_files"),
    ("put_files", "videos/", "put_files"),
    ("put_files", "metrics/", "flush"),
    ("put_bytes", "_atlas/condemned/", "condemn"),
    ("put_bytes", "_atlas/erasures/", "put erasure"),
    ("delete", "_atlas/condemned/", "acquit"),
    ("delete", "video_stats/", "delete"),
    ("delete", "videos/", "delete"),
    ("delete", "metrics/", "delete"),
    ("delete", "transcripts/", "delete documents"),
)

#: Folders of objects that decide nothing: they tell programs without a database what was committed.
STORE_UNTIED = ("_atlas/manifests/",)

#: Classes whose writing methods must all be tied.
WRITERS = (
    f"{_LEDGER}.control:ControlWriter",
    f"{_LEDGER}.files:LedgerWriter",
    f"{_LEDGER}.swap:Replacement",
    f"{_LEDGER}.adoption:LedgerAdoption",
    "atlas.repositories.erasure:Erasure",
    "atlas.repositories.ledger.digests:ErasedDigests",
    f"{_HOT}.stale:StaleSamples",
    f"{_HOT}.restored:Pins",
    f"{_HOT}.restored:StagedSamples",
    f"{_HOT}.restored:RestoredSamples",
    "atlas.repositories.finished:FinishedRows",
)

#: Writing functions without a label of their own, each with its reason.
UNTIED = {
    "ControlWriter.try_lease": "a lock may be lost: the model has none",
    "ControlWriter.end_lease": "the same",
    "ControlWriter.move_to": "moving a vault is not modelled",
    "LedgerWriter._move": "part of mark_written, mark_verified, mark_live, swap",
    "Replacement._adopt": "part of swap",
    "LedgerAdoption.take": "its write is tied",
    "LedgerAdoption._leave_live": "part of retire and mark_gone",
    "LedgerAdoption.leave_unclaimed": "what need not be looked at again: decides nothing",
    "ErasedDigests.remember_records": "which records need not be read again: decides nothing",
    "ErasedDigests.met": "an id whose hash is barred: the model has no hashes",
    "StaleSamples.remove": "part of take, in its transaction",
    "StagedSamples.load": "a temporary table",
    "FinishedRows.delete": "part of mark_live, in its transaction",
    "FinishedRows.delete_archived": "part of take and forward, in their transaction",
}

#: Steps of the model that no function of Atlas is compared for, each with its reason.
MODEL_ONLY = {
    "garbage": "a transaction that reads under the fence",
    "leftovers": "the same",
    "returns": "notes for the properties that an erasure has returned",
    "result": "judges a scan",
    "begin": "a job's begin as one step",
    "flush documents": "documents that wait",
    "take back": "a broken rule",
    "abandon": "a broken rule",
    "delete videos": "a broken rule",
}
