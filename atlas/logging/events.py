"""Every event that Atlas logs, with its level and fields. Names are stable: programs filter by them.

docs/logging.md is made from this table; a test compares both with the code.
"""

from __future__ import annotations

from atlas.logging.declaration import LogEvent
from atlas.logging.storage_events import STORAGE_EVENTS

__all__ = ["LOG_EVENTS", "LogEvent"]

#: What the other rooms log, by name, in alphabetical order.
_OTHERS: dict[str, LogEvent] = {
    "address_blocked": LogEvent(
        "error",
        "agent pool key error action",
        "Google blocks this machine's address; no key is used for a while.",
    ),
    "calendar_turned": LogEvent("debug", "woken", "Slow videos that are due were woken."),
    "calendar_waits": LogEvent(
        "info", "hint", "More slow videos are awake than workers claim: none is woken for now."
    ),
    "database_taken_over": LogEvent(
        "info", "rows", "The tables of the platform's first version were copied into Atlas's."
    ),
    "database_unhealthy": LogEvent(
        "warning", "error kind", "A health check did not get an answer from PostgreSQL."
    ),
    "error_group_left_out": LogEvent(
        "error",
        "fingerprint kind",
        "Too many kinds of errors within a second: this one is not counted.",
    ),
    "error_not_captured": LogEvent(
        "error", "kind error", "An error could not be tracked: looking at it failed."
    ),
    "error_not_forwarded": LogEvent(
        "error", "error", "A tracked error could not be handed to Sentry."
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
        "The notice that an endpoint was disabled could not be sent.",
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
    "item_left_out": LogEvent(
        "warning", "row field error", "An item of a batch could not be read; the others were taken."
    ),
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
    "marked_video_unknown": LogEvent(
        "warning", "video_id fact", "A fact was reported of a video that is not in the database."
    ),
    "no_work_claimed": LogEvent(
        "warning", "kind error", "Claiming work failed; it is tried again."
    ),
    "notification_channel_unknown": LogEvent(
        "warning", "channel", "A notification named no known channel; it goes to the alerts."
    ),
    "notification_extra_missing": LogEvent(
        "error", "extra hint", "A setting asks for a way out whose optional extra is not installed."
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
    "quota_exhausted": LogEvent(
        "critical",
        "agent pool bucket retry_at hint",
        "Every API key of a pool is spent; the agent ends cleanly.",
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
    "task_failed_while_ending": LogEvent(
        "error", "error", "A task failed while its program ended because keys are spent."
    ),
    "video_without_usable_id": LogEvent(
        "warning", "error", "An item without a video id was left out."
    ),
    "videos_undecided": LogEvent(
        "warning",
        "videos reason",
        "Videos were left out: only files in the vault, which could not be read, say whether they are known.",
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

#: By name, in alphabetical order.
LOG_EVENTS = dict(sorted((STORAGE_EVENTS | _OTHERS).items()))
