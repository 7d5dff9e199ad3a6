"""What an error of the YouTube Data API means for key and project, and when its quota comes back.

The sources are the API's error reference and quota pages, and Google's list of error reasons
(googleapis, ``google/api/error_reason.proto``). An error is judged by the name of the limit first, then by
the reasons, then by phrases of the message, never by the status alone: 403 is a spent quota as well as a
private playlist.
"""

from __future__ import annotations

import errno
import functools
import http.client
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

from atlas.errors import Unavailable
from atlas.keys.refusals import Facts, facts_of

__all__ = ["Action", "Verdict", "classify", "judge", "next_reset"]


@functools.cache
def pacific() -> ZoneInfo:
    """The time zone of the quota's day; read at the first use, not at import."""
    return ZoneInfo("America/Los_Angeles")


class Action(Enum):
    """What to do after an error."""

    REST = "rest"  #: the project's quota is spent: next key, this one after the reset
    SLOW_DOWN = "slow_down"  #: too fast: a short rest, then again
    DISABLE_KEY = "disable_key"  #: the key is dead or restricted: next key
    DISABLE_PROJECT = "disable_project"  #: the project may not use the API: next key
    BLOCKED = "blocked"  #: this address is blocked, whatever the key: everything rests
    RETRY = "retry"  #: the service or the network failed: again
    FAIL = "fail"  #: about this request, not about the key: the caller's


@dataclass(frozen=True, slots=True)
class Verdict:
    """``bucket`` is the quota bucket that the refusal names, if any; ``retry_after`` is in seconds."""

    action: Action
    bucket: str | None = None
    retry_after: float | None = None


_REASONS: dict[Action, str] = {
    Action.REST: "quotaExceeded dailyLimitExceeded RESOURCE_QUOTA_EXCEEDED",
    Action.SLOW_DOWN: "rateLimitExceeded userRateLimitExceeded RATE_LIMIT_EXCEEDED",
    Action.DISABLE_KEY: """
        keyInvalid keyExpired ipRefererBlocked dailyLimitExceededUnreg rateLimitExceededUnreg
        userRateLimitExceededUnreg API_KEY_INVALID API_KEY_SERVICE_BLOCKED API_KEY_HTTP_REFERRER_BLOCKED
        API_KEY_IP_ADDRESS_BLOCKED API_KEY_ANDROID_APP_BLOCKED API_KEY_IOS_APP_BLOCKED""",
    Action.DISABLE_PROJECT: """
        accessNotConfigured SERVICE_DISABLED BILLING_DISABLED USER_PROJECT_DENIED CONSUMER_SUSPENDED
        CONSUMER_INVALID SECURITY_POLICY_VIOLATED RESOURCE_USAGE_RESTRICTION_VIOLATED
        ORG_RESTRICTION_VIOLATION SERVICE_NOT_VISIBLE GCP_SUSPENDED LOCATION_ORG_POLICY_VIOLATED
        ENDPOINT_USAGE_RESTRICTION_VIOLATED""",
    Action.RETRY: """
        servingLimitExceeded concurrentLimitExceeded SERVICE_UNAVAILABLE aborted backendError
        internalError""",
    # about the request, its token or its user: another key changes nothing
    Action.FAIL: """
        LOCATION_TAX_POLICY_VIOLATED ACCESS_TOKEN_EXPIRED ACCESS_TOKEN_SCOPE_INSUFFICIENT
        ACCOUNT_STATE_INVALID ACCESS_TOKEN_TYPE_UNSUPPORTED CREDENTIALS_MISSING RESOURCE_PROJECT_INVALID
        SESSION_COOKIE_INVALID USER_BLOCKED_BY_ADMIN SYSTEM_PARAMETER_UNSUPPORTED
        ORG_RESTRICTION_HEADER_INVALID LOCATION_POLICY_VIOLATED MISSING_ORIGIN OVERLOADED_CREDENTIALS
        TLS_ORG_POLICY_VIOLATED TLS_CIPHER_RESTRICTION_VIOLATED EMULATOR_QUOTA_EXCEEDED
        CREDENTIAL_ANDROID_APP_INVALID IAM_PERMISSION_DENIED JWT_TOKEN_INVALID CREDENTIAL_TYPE_UNSUPPORTED
        ACCOUNT_TYPE_UNSUPPORTED MCP_SERVER_DISABLED""",
}
#: Every reason that is known. Others say nothing, and the status decides between RETRY and FAIL.
ACTIONS = {reason: action for action, names in _REASONS.items() for reason in names.split()}
#: Where several reasons are given, the first of these decides.
_ORDER = (
    Action.DISABLE_PROJECT,
    Action.DISABLE_KEY,
    Action.REST,
    Action.SLOW_DOWN,
    Action.RETRY,
    Action.FAIL,
)
#: Phrases of messages, for bodies whose reason is missing, general, or was cut off; by status, because a
#: message may quote the request. The most specific first.
_PHRASES: tuple[tuple[Action, frozenset[int], re.Pattern[str]], ...] = tuple(
    (action, frozenset(statuses), re.compile(pattern, re.IGNORECASE))
    for action, statuses, pattern in (
        (Action.DISABLE_KEY, (400,), r"API key (not valid|not found|expired)"),
        (Action.DISABLE_KEY, (403, 429), r"unregistered callers|for unauthenticated use exceeded"),
        (
            Action.DISABLE_KEY,
            (403,),
            r"\bRequests (to this API|from referer|from this (Android|iOS))"
            r"|key has an IP address restriction",
        ),
        (
            Action.DISABLE_PROJECT,
            (403,),
            r"has not been used in project|access not configured|consumer .{0,80}has been suspended"
            r"|requires billing to be enabled|billing account .{0,40}disabled",
        ),
        (Action.DISABLE_PROJECT, (400, 403, 404), r"\bproject .{0,60}not found or deleted"),
        (Action.REST, (403, 429), r"you have exceeded your|\bdaily limit exceeded"),
        (Action.SLOW_DOWN, (403, 429), r"\brate limit exceeded"),
        (Action.RETRY, (409,), r"service is currently unavailable|operation was aborted"),
    )
)
#: Google's page for addresses that send "unusual traffic".
_SORRY = re.compile(r"<title>\s*sorry|unusual traffic|/sorry/", re.IGNORECASE)
_QUOTA_METRIC = re.compile(r"\bquota exceeded for quota metric\b", re.IGNORECASE)
_PER_DAY = re.compile(r"per[ _]?day", re.IGNORECASE)
_PER_SHORTER = re.compile(r"per[ _]?(minute|second|hour|\d+ ?seconds)", re.IGNORECASE)
#: The bucket that a limit's name speaks of, by a part of it without spaces.
_BUCKETS = (
    ("search", "search"),
    ("batchgetstats", "batch_stats"),
    ("batchstats", "batch_stats"),
    ("upload", "upload"),
    ("videoinsert", "upload"),
    ("videosinsert", "upload"),
)
_NETWORK_ERRNOS = frozenset(
    {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT}
)
#: Classes of clients that Atlas does not import, by package and name.
_NETWORK_CLASSES = frozenset(
    {
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("google", "TransportError"),
        ("httplib2", "ServerNotFoundError"),
        ("httpx", "TransportError"),
        ("httpx2", "TransportError"),
        ("requests", "ChunkedEncodingError"),
        ("requests", "ConnectionError"),
        ("requests", "Timeout"),
        ("urllib", "URLError"),
        ("urllib3", "HTTPError"),
    }
)


def classify(error: BaseException) -> Action:
    """What ``error`` asks for; see `judge`."""
    return judge(error).action


def judge(error: BaseException) -> Verdict:
    """What ``error`` asks for, and of which bucket it speaks. Never raises, whatever the error holds.

    Takes `YouTubeAPIError`, googleapiclient's ``HttpError``, the status errors of aiohttp, httpx, httpx2 and
    requests, errors with a ``reason`` or a document, and plain errors whose text begins
    ``HTTP <status>``. No other text decides anything.
    """
    facts = facts_of(error)
    action = _action(facts)
    if action is None:
        if facts.status is not None:
            action = Action.RETRY if facts.status >= 500 else Action.FAIL
        else:
            action = Action.RETRY if _is_network(error) else Action.FAIL
    return Verdict(action, bucket_of(facts.limit), facts.retry_after)


def bucket_of(limit: str) -> str | None:
    """The bucket that the name of a limit speaks of; None for no name."""
    if not limit:
        return None
    name = re.sub(r"[^a-z]", "", limit.lower())
    return next((bucket for part, bucket in _BUCKETS if part in name), "general")


def next_reset(now: datetime) -> datetime:
    """The moment, in UTC, of the next midnight in Los Angeles, when quotas come back.

    ``now`` is timezone-aware. Days there have 23 to 25 hours.
    """
    tomorrow = now.astimezone(pacific()).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), tzinfo=pacific()).astimezone(UTC)


def _action(facts: Facts) -> Action | None:
    if facts.html and facts.status in (403, 429, 503) and _SORRY.search(facts.message):
        return Action.BLOCKED
    actions = {ACTIONS[reason] for reason in facts.reasons if reason in ACTIONS}
    # the name of the limit before the reason: "queries per minute" comes as quotaExceeded too
    about_quota = (
        actions & {Action.REST, Action.SLOW_DOWN}
        or facts.status == 429
        or _QUOTA_METRIC.search(facts.message)
    )
    if about_quota and not actions & {Action.DISABLE_KEY, Action.DISABLE_PROJECT}:
        if _PER_DAY.search(facts.limit):
            return Action.REST
        if _PER_SHORTER.search(facts.limit):
            return Action.SLOW_DOWN
    if not actions - {Action.FAIL}:
        for action, statuses, phrase in _PHRASES:
            if facts.status in statuses and phrase.search(facts.message):
                return action
        if facts.status == 429:
            actions |= {Action.SLOW_DOWN}
    found = next((action for action in _ORDER if action in actions), None)
    if found is Action.SLOW_DOWN and _PER_DAY.search(facts.message):
        return Action.REST
    return found


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ssl.CertificateError):
        return False  # the next attempt meets the same certificate
    if isinstance(
        error,
        ConnectionError
        | TimeoutError
        | socket.gaierror
        | ssl.SSLError
        | http.client.HTTPException
        | Unavailable,
    ):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK_ERRNOS:
        return True
    return any(
        (kind.__module__.partition(".")[0], kind.__name__) in _NETWORK_CLASSES
        for kind in type(error).__mro__
    )
