"""Every event that Atlas logs, with its level and fields. Names are stable: programs filter by them.

docs/logging.md is made from this table; a test compares both with the code.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LOG_EVENTS", "LogEvent"]


class LogEvent(NamedTuple):
    """One kind of event: ``fields`` are those that it may carry, separated by spaces."""

    level: str
    fields: str
    meaning: str


#: By name, in alphabetical order.
LOG_EVENTS: dict[str, LogEvent] = {
    "address_blocked": LogEvent(
        "error",
        "agent pool key error action",
        "Google blocks this machine's address; no key is used for a while.",
    ),
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
    "calendar_turned": LogEvent("debug", "woken", "Slow videos that are due were woken."),
    "calendar_waits": LogEvent(
        "info", "hint", "More slow videos are awake than workers claim: none is woken for now."
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
    "database_taken_over": LogEvent(
        "info", "rows", "The tables of the platform's first version were copied into Atlas's."
    ),
    "database_unhealthy": LogEvent(
        "warning", "error kind", "A health check did not get an answer from PostgreSQL."
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
    "error_group_left_out": LogEvent(
        "error",
        "fingerprint kind",
        "Too many kinds of errors within a second: this one is not counted.",
    ),
    "error_not_captured": LogEvent(
        "error", "kind error", "An error could not be tracked: looking at it failed."
    ),
    "errors_not_tracked": LogEvent(
        "error", "groups error", "The errors of the last second could not be counted or announced."
    ),
    "event_bus_disabled": LogEvent(
        "debug",
        "",
        "EVENT_BUS_ENABLED is false: events were dropped.",
    ),
    "event_delivery_failed": LogEvent(
        "warning",
        "event_id event_type attempt error given_up",
        "An endpoint did not take an event.",
    ),
    "event_delivery_left": LogEvent(
        "error",
        "error",
        "The janitor could not deliver what was due, or not in time; it went on.",
    ),
    "event_delivery_stopped": LogEvent(
        "error",
        "error",
        "Background delivery ended; the next event or `atlas events deliver` goes on.",
    ),
    "event_delivery_waits": LogEvent(
        "warning",
        "error",
        "A deliverer cannot reach the database, and tries again.",
    ),
    "event_emit_failed": LogEvent(
        "error",
        "error",
        "An event could not be made: its type or payload is wrong.",
    ),
    "event_endpoint_disabled": LogEvent(
        "error",
        "endpoint reason hint",
        "An endpoint answered 410 or failed for five days; its deliveries are held.",
    ),
    "event_endpoint_not_made": LogEvent(
        "error",
        "error",
        "The endpoint of EVENT_BUS_WEBHOOK_URL could not be made.",
    ),
    "event_endpoint_paused": LogEvent(
        "warning",
        "endpoint reason",
        "An endpoint is unwell; one delivery at a time probes it.",
    ),
    "event_endpoint_resumed": LogEvent(
        "info",
        "endpoint due",
        "A paused endpoint took a delivery again.",
    ),
    "event_endpoint_state_waits": LogEvent(
        "warning",
        "error",
        "A change of an endpoint's state could not be recorded yet.",
    ),
    "event_endpoint_unencrypted": LogEvent(
        "warning",
        "endpoint hint",
        "An endpoint's address is http:// outside of dev and test.",
    ),
    "event_endpoint_unsigned": LogEvent(
        "warning",
        "endpoint hint",
        "An endpoint has no secret: its webhooks are not signed.",
    ),
    "event_endpoint_unusable": LogEvent(
        "error",
        "endpoint error",
        "An endpoint's address or secret is wrong; its deliveries wait.",
    ),
    "event_handler_cancelled": LogEvent(
        "error",
        "event_type handler",
        "A handler was cancelled, or cancelled itself.",
    ),
    "event_handler_failed": LogEvent(
        "error",
        "event_type handler stack",
        "A handler raised; the others were called.",
    ),
    "event_handler_overflow": LogEvent(
        "error",
        "handler dropped",
        "More than 1,000 events waited for a handler; further ones are not handled.",
    ),
    "event_handler_timeout": LogEvent(
        "error",
        "event_type handler seconds",
        "A handler took too long and was left behind.",
    ),
    "event_handlers_cut_off": LogEvent(
        "error",
        "events",
        "The event loop ended before all handlers were done.",
    ),
    "event_listener_lost_its_lease": LogEvent(
        "warning",
        "listener",
        "A batch took longer than its lease; another process may read it again.",
    ),
    "event_listener_waits": LogEvent(
        "warning",
        "listener error",
        "A listener cannot reach the database, and tries again.",
    ),
    "event_not_recorded": LogEvent(
        "error",
        "event_types error",
        "Events could not be written to the database; handlers were called.",
    ),
    "event_notification_failed": LogEvent(
        "error",
        "error",
        "People could not be told that an endpoint was disabled.",
    ),
    "event_payload_left_out": LogEvent(
        "warning",
        "event_type body_bytes",
        "A webhook body over 20 kB was sent without its payload.",
    ),
    "event_retention_forced": LogEvent(
        "error",
        "day readers",
        "A day of events was dropped that somebody had still to read.",
    ),
    "event_retention_left": LogEvent(
        "error",
        "error",
        "The janitor could not drop old events; it went on.",
    ),
    "event_retention_waits": LogEvent(
        "warning",
        "day readers",
        "A day of events is kept because somebody has still to read it.",
    ),
    "event_routing_waits": LogEvent(
        "warning",
        "error",
        "The router cannot reach the database, and tries again.",
    ),
    "event_sent_unrecorded": LogEvent(
        "warning",
        "event_type delivered",
        "An event that is in no database was tried once at the webhook.",
    ),
    "event_webhook_unencrypted": LogEvent(
        "warning",
        "hint",
        "EVENT_BUS_WEBHOOK_URL is http:// outside of dev and test.",
    ),
    "event_webhook_unsigned": LogEvent(
        "warning",
        "hint",
        "Webhooks are sent without a signature: no secret is set.",
    ),
    "flush_at_exit_failed": LogEvent(
        "warning",
        "error",
        "What waited could not be delivered as the program ended; it stays on the disk.",
    ),
    "forget_barred": LogEvent(
        "debug", "videos", "An erasure entered its ids among the barred ones."
    ),
    "forget_erased": LogEvent("info", "videos files objects", "An erasure ended."),
    "forget_hot": LogEvent("debug", "samples", "An erasure removed the rows in PostgreSQL."),
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
    "item_left_out": LogEvent(
        "warning", "row field error", "An item of a batch could not be read; the others were taken."
    ),
    "janitor_run": LogEvent("info", "deleted retention_days", "The janitor ended."),
    "key_disabled": LogEvent(
        "error", "agent pool key error action", "An API key or its project was refused for good."
    ),
    "key_pools_shared": LogEvent(
        "warning",
        "pool keys needed",
        "There are too few API keys to split; every pool shares all of them.",
    ),
    "key_spent": LogEvent(
        "warning",
        "bucket until agent pool key error action",
        "A quota bucket of a key's project is spent.",
    ),
    "keys_not_shared": LogEvent(
        "warning", "error hint", "What is known of API keys is not shared: the database is away."
    ),
    "keys_shared_again": LogEvent("info", "", "What is known of API keys is shared again."),
    "keys_sharing_ended": LogEvent(
        "error", "error", "A fault ended the sharing of what is known of API keys."
    ),
    "last_report_failed": LogEvent(
        "warning",
        "batch error",
        "Work could not be reported as its batch was closed; its leases run out.",
    ),
    "lease_renewal_failed": LogEvent(
        "warning",
        "batch error",
        "Leases could not be renewed; they run out unless the next try succeeds.",
    ),
    "leases_lost": LogEvent(
        "warning", "batch leases keys", "Leases ran out and belong to other workers now."
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
    "marked_video_unknown": LogEvent(
        "warning", "video_id fact", "A fact was reported of a video that is not in the database."
    ),
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
    "no_work_claimed": LogEvent(
        "warning", "kind error", "Claiming work failed; it is tried again."
    ),
    "notification_channel_unknown": LogEvent(
        "warning", "channel", "A notification named no known channel; it goes to the alerts."
    ),
    "notification_failed": LogEvent(
        "error", "title error channel", "A notification could not be sent."
    ),
    "notification_field_unreadable": LogEvent(
        "warning", "kind", "A field of a notification has a wrong shape and is left out."
    ),
    "notification_level_unknown": LogEvent(
        "warning", "value", "A notification named no known level; it is sent as INFO."
    ),
    "notification_not_configured": LogEvent(
        "warning", "channel title hint", "No Discord webhook is set; a notification was dropped."
    ),
    "notifications_not_shared": LogEvent(
        "warning",
        "error",
        "The database did not answer in time: this process keeps to a slower pace alone.",
    ),
    "outbox_failed": LogEvent(
        "error",
        "vault",
        "Background delivery to the vault ended by an error nobody foresaw; the next call starts it anew.",
    ),
    "quota_exhausted": LogEvent(
        "critical",
        "agent pool bucket retry_at hint",
        "Every API key of a pool is spent; the agent ends cleanly.",
    ),
    "read_planned": LogEvent(
        "debug", "hot_rows files skipped spans", "A read has chosen its files."
    ),
    "released": LogEvent("info", "pins rows kept", "Restored samples were let go."),
    "request_failed": LogEvent(
        "warning",
        "agent pool key error action rest_seconds",
        "An API request failed and is tried again; rest_seconds where it was too fast.",
    ),
    "request_given_up": LogEvent(
        "warning",
        "agent pool bucket",
        "An API request failed HYDRA_RETRY_ATTEMPTS times; None is returned.",
    ),
    "restored": LogEvent("info", "rows written", "A restore ended."),
    "retrying": LogEvent(
        "info", "function attempt wait_seconds error", "A call failed and is tried again."
    ),
    "samples_of_forgotten_videos_refused": LogEvent(
        "warning", "videos", "Samples of erased videos were not written."
    ),
    "search_queue_full": LogEvent(
        "warning", "terms refused", "The search queue holds 100,000 terms; new ones were refused."
    ),
    "search_terms_revived": LogEvent(
        "info", "terms days", "Exhausted search terms are searched for again."
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
    "task_failed_while_ending": LogEvent(
        "error", "error", "A task failed while its program ended because keys are spent."
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
    "video_without_usable_id": LogEvent(
        "warning", "error", "An item without a video id was left out."
    ),
    "watchlist_parked": LogEvent(
        "info",
        "videos collected",
        "Quiet rows of the watchlist, and ids that were collected, were parked.",
    ),
    "work_quarantined": LogEvent(
        "warning", "kind rows keys hint", "Work failed ten times and was put aside."
    ),
}
