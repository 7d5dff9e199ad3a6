"""What the archive, the vault and the janitor log."""

from __future__ import annotations

from atlas.logging.declaration import LogEvent

__all__ = ["STORAGE_EVENTS"]

#: By name, in alphabetical order.
STORAGE_EVENTS: dict[str, LogEvent] = {
    "archive_exported": LogEvent(
        "debug", "key rows", "A sealed table was written to a local file."
    ),
    "archive_file_unreadable": LogEvent(
        "error", "key error", "A file of the ledger could not be searched for forgotten ids."
    ),
    "archive_files_taken_in": LogEvent(
        "warning",
        "files replaced missing left",
        "The vault held files that the ledger did not name, or a job that died was settled.",
    ),
    "archive_heartbeat_failed": LogEvent(
        "warning",
        "error",
        "The archive lock could not be renewed; it runs out unless the next try succeeds.",
    ),
    "archive_live": LogEvent("debug", "key", "A file became part of the cold tier."),
    "archive_object_differs": LogEvent(
        "error",
        "key error",
        "An object read back is not what was written; it is written again under another name.",
    ),
    "archive_object_found": LogEvent(
        "info", "key", "An object to be created was there already: an earlier answer had been lost."
    ),
    "archive_output_damaged": LogEvent(
        "error",
        "key why",
        "An output of a job that died is damaged, and what it was made from is gone; it is left alone.",
    ),
    "archive_output_settled": LogEvent(
        "info", "key live why", "An output of a job that died counts from now on, or was given up."
    ),
    "archive_outputs_abandoned": LogEvent(
        "info",
        "files",
        "Outputs of a rewrite that was interrupted were given up; `atlas vault gc` deletes them.",
    ),
    "archive_restored": LogEvent(
        "debug", "rows", "Rows of one file were copied back to PostgreSQL."
    ),
    "archive_run": LogEvent("info", "rows files late_rows", "An archive run ended."),
    "archive_sealed": LogEvent(
        "debug", "slice seq", "A partition was detached and entered in the ledger."
    ),
    "archive_stored": LogEvent("debug", "key", "An object was put into the vault."),
    "archive_swapped": LogEvent(
        "debug", "inputs outputs", "Files were replaced by rewritten ones."
    ),
    "archive_verified": LogEvent(
        "debug", "key", "An object was read back and agrees with the ledger."
    ),
    "archive_written": LogEvent("debug", "key", "The ledger says that an object was written."),
    "commit_answer_lost": LogEvent(
        "warning",
        "repo error",
        "The Hub's answer to a commit was lost; its history is searched for the commit.",
    ),
    "commit_budget_spent": LogEvent(
        "warning", "vault limit wait_seconds", "HF_COMMITS_PER_HOUR is reached; commits wait."
    ),
    "compaction": LogEvent("info", "days files into", "A compaction ended."),
    "compaction_failed": LogEvent(
        "error", "day error", "One day could not be compacted; the others were."
    ),
    "dataset_card_unreadable": LogEvent(
        "warning",
        "error",
        "The repository's README has no front matter that can be read; the card is left alone.",
    ),
    "document_refused": LogEvent(
        "error",
        "key error",
        "The vault refused a waiting document for good; it is kept on this machine.",
    ),
    "document_spooled": LogEvent("debug", "key", "A document waits on this machine's disk."),
    "documents_delivered": LogEvent("debug", "files", "Waiting documents reached the vault."),
    "erasures_read": LogEvent(
        "info", "records barred", "Records of forgotten ids were read from the vault."
    ),
    "forget_barred": LogEvent(
        "debug", "videos", "An erasure entered its ids among the barred ones."
    ),
    "forget_erased": LogEvent("info", "videos files objects", "An erasure ended."),
    "forget_hot": LogEvent("debug", "samples", "An erasure removed the rows in PostgreSQL."),
    "forget_unfinished": LogEvent(
        "warning",
        "transactions hint",
        "A transaction that began before an erasure goes on; the next run ends the erasure.",
    ),
    "garbage_collected": LogEvent("info", "objects dry_run", "A clean-up of the vault ended."),
    "hot_budget_passed": LogEvent(
        "error",
        "hot_bytes hot_max_bytes",
        "The hot samples take more than HOT_MAX_BYTES, and archiving did not help.",
    ),
    "hot_budget_relief_failed": LogEvent(
        "warning", "hot_bytes error", "Archiving early, to stay within HOT_MAX_BYTES, failed."
    ),
    "hot_budget_too_small": LogEvent(
        "warning",
        "hot_bytes hot_max_bytes hint",
        "HOT_MAX_BYTES is less than the partitions that are still written to.",
    ),
    "janitor_run": LogEvent("info", "deleted retention_days", "The janitor ended."),
    "metrics_left_out": LogEvent(
        "warning",
        "key reason",
        "An object under metrics/ is not what append_metrics writes and is not read, whole or in part.",
    ),
    "metrics_delivered": LogEvent("debug", "files", "Waiting samples reached the vault."),
    "metrics_not_adopted": LogEvent(
        "warning",
        "hint",
        "Several databases share the vault; appended metrics stay where they are.",
    ),
    "metrics_not_erased": LogEvent(
        "warning",
        "hint",
        "Several databases share the vault; appended metrics of forgotten videos stay there, unseen.",
    ),
    "metrics_not_remembered": LogEvent(
        "debug", "error", "That this vault has appended metrics could not be noted on disk."
    ),
    "metrics_spooled": LogEvent("debug", "key", "Appended samples are on this machine's disk."),
    "metrics_wait_in_spool": LogEvent(
        "warning",
        "vault files bytes oldest error",
        "The vault does not answer; appended samples wait on this machine.",
    ),
    "outbox_failed": LogEvent(
        "error",
        "vault",
        "Background delivery to the vault ended by an error nobody foresaw; the next call starts it anew.",
    ),
    "read_planned": LogEvent(
        "debug", "hot_rows files skipped spans", "A read has chosen its files."
    ),
    "restored": LogEvent("info", "rows written", "A restore ended."),
    "schedule_file_unreadable": LogEvent(
        "error",
        "key error",
        "A file of the schedule is lost or damaged: its videos are not sampled.",
    ),
    "schedule_moved": LogEvent(
        "info", "cohort key videos", "Slow videos were written to a file of the vault."
    ),
    "schedule_not_moved": LogEvent(
        "warning",
        "cohorts error",
        "Slow videos of long ago could not be moved to the vault; the next run tries again.",
    ),
    "schedule_not_read": LogEvent(
        "warning",
        "reason cohorts",
        "Files of the schedule could not be read: these months' videos wait to be sampled.",
    ),
    "schedule_restored": LogEvent(
        "info", "files", "The part of the watchlist in the vault was brought back to PostgreSQL."
    ),
    "schedule_settled": LogEvent(
        "info", "files videos", "Files of the schedule took the place of what the ring had of them."
    ),
    "spool_left_at_exit": LogEvent(
        "warning",
        "vault files",
        "The program ended while files wait for the vault; they stay on the disk.",
    ),
    "spool_needs_a_hand": LogEvent(
        "error", "vault error", "The vault refuses what waits here; somebody must look."
    ),
    "spool_waits": LogEvent(
        "warning",
        "vault files bytes oldest wait_seconds error",
        "The vault takes nothing for now; files wait on this machine.",
    ),
    "vault_adopted": LogEvent(
        "info", "files stale_rows epoch", "A person declared this database to be the vault's."
    ),
    "vault_moved": LogEvent(
        "info",
        "objects target",
        "The vault was copied to another place, and the database goes on there.",
    ),
    "vault_record_unreadable": LogEvent(
        "error", "key error", "A record under _atlas/ cannot be read; it has no effect."
    ),
    "vault_unhealthy": LogEvent(
        "warning", "error", "A health check did not get an answer from the vault."
    ),
    "cold_file_left_out": LogEvent(
        "warning",
        "key reason",
        "An object among archived samples is not this database's, and a reader without the database left it "
        "out.",
    ),
    "cold_look_repeated": LogEvent(
        "debug",
        "reason",
        "The vault changed while a reader looked which files count; it looks again.",
    ),
    "manifest_not_published": LogEvent(
        "warning",
        "error",
        "Which files count could not be written into the vault; the next job writes it. Readers without the "
        "database list files until then.",
    ),
    "manifest_published": LogEvent(
        "debug",
        "files settled",
        "The vault says which files count, for readers without the database.",
    ),
    "manifest_unreadable": LogEvent(
        "warning",
        "key error",
        "What the vault says of the files that count cannot be read; they are listed instead.",
    ),
}
