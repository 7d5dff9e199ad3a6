"""Error bodies as Google sends them, by what happened, and what each must lead to."""

from __future__ import annotations

import json
from typing import Any

from atlas.keys.youtube import Action
from tests.support.servers.http import Reply

_QUOTA = (
    'The request cannot be completed because you have exceeded your <a href="/youtube/v3/'
    'getting-started#quota">quota</a>.'
)
#: Not a key of anybody; of the shape that Google quotes in one message.
QUOTED_KEY = "AIzaSyFakeFakeFakeFakeFakeFakeFakeQuote"


def refusal(
    status: int, message: str, reason: str, domain: str = "global", info: str = "", **more: Any
) -> Reply:
    """A body of today's form: two spaces, the message before the reasons, details for some."""
    error: dict[str, Any] = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": domain, "reason": reason}],
    }
    rpc, limits = more.pop("rpc", ""), more
    if rpc:
        error["status"] = rpc
    if info:
        error["details"] = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": info,
                "domain": "googleapis.com",
                "metadata": {
                    "service": "youtube.googleapis.com",
                    "consumer": "projects/1",
                    **limits,
                },
            }
        ]
    text = json.dumps({"error": error}, indent=2)
    return Reply(status, text.replace("<", "\\u003c").replace(">", "\\u003e").encode())


def old_refusal(status: int, message: str, reason: str, domain: str) -> Reply:
    """A body of the older form: one space, the reasons before the message."""
    error = {
        "errors": [{"domain": domain, "reason": reason, "message": message}],
        "code": status,
        "message": message,
    }
    return Reply(status, json.dumps({"error": error}, indent=1).encode())


def over_limit(metric: str, limit: str, name: str, status: int = 429) -> Reply:
    """A quota limit was hit; ``limit`` is its title, ``name`` its identifier."""
    return refusal(
        status,
        f"Quota exceeded for quota metric '{metric}' and limit '{limit}' of service "
        "'youtube.googleapis.com' for consumer 'project_number:123456789012'.",
        "rateLimitExceeded",
        info="RATE_LIMIT_EXCEEDED",
        rpc="RESOURCE_EXHAUSTED",
        quota_limit=name,
        quota_metric="youtube.googleapis.com/default",
    )


def _denied(status: int, message: str, info: str) -> Reply:
    reason = "forbidden" if status == 403 else "badRequest"
    rpc = "PERMISSION_DENIED" if status == 403 else "INVALID_ARGUMENT"
    return refusal(status, message, reason, info=info, rpc=rpc)


SPENT = refusal(403, _QUOTA, "quotaExceeded", "youtube.quota")
SEARCH_SPENT = over_limit(
    "Search Queries", "Search Queries per day", "defaultSearchListPerDayPerProject"
)
PER_MINUTE = over_limit("Queries", "Queries per minute", "defaultPerMinutePerProject")
SORRY = Reply(
    429,
    b'<html><head><meta http-equiv="content-type" content="text/html; charset=utf-8"/><title>Sorry...</title>'
    b"<style> body { font-family: verdana } </style></head><body><h1>We're sorry...</h1>"
    b"<p>... but your computer or network may be sending automated queries.</p></body></html>",
)

#: Each with the action that it must lead to and the bucket that it names. All are told from 200 characters.
PUBLISHED: dict[str, tuple[Reply, Action, str | None]] = {
    "quota": (SPENT, Action.REST, None),
    "quota, old": (
        old_refusal(403, _QUOTA, "quotaExceeded", "youtube.quota"),
        Action.REST,
        None,
    ),
    "daily limit, old": (
        old_refusal(
            403,
            "Daily Limit Exceeded. The quota will be reset at midnight Pacific Time (PT).",
            "dailyLimitExceeded",
            "usageLimits",
        ),
        Action.REST,
        None,
    ),
    "searches a day": (SEARCH_SPENT, Action.REST, "search"),
    "queries a minute": (PER_MINUTE, Action.SLOW_DOWN, "general"),
    "queries a minute and user": (
        over_limit("Queries", "Queries per minute per user", "defaultPerMinutePerUser", 403),
        Action.SLOW_DOWN,
        "general",
    ),
    "rate, old": (
        old_refusal(403, "User Rate Limit Exceeded", "userRateLimitExceeded", "usageLimits"),
        Action.SLOW_DOWN,
        None,
    ),
    "wrong key": (
        _denied(400, "API key not valid. Please pass a valid API key.", "API_KEY_INVALID"),
        Action.DISABLE_KEY,
        None,
    ),
    "expired key": (
        _denied(400, "API key expired. Please renew the API key.", "API_KEY_INVALID"),
        Action.DISABLE_KEY,
        None,
    ),
    "service blocked": (
        _denied(
            403,
            "Requests to this API youtube method youtube.api.v3.V3DataSearchService.List are blocked.",
            "API_KEY_SERVICE_BLOCKED",
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "referrer blocked": (
        _denied(403, "Requests from referer <empty> are blocked.", "API_KEY_HTTP_REFERRER_BLOCKED"),
        Action.DISABLE_KEY,
        None,
    ),
    "app blocked": (
        _denied(
            403,
            "Requests from this Android client application <empty> are blocked.",
            "API_KEY_ANDROID_APP_BLOCKED",
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "address blocked": (
        _denied(
            403,
            "The provided API key has an IP address restriction. The originating IP address of the call "
            "(192.0.2.1) violates this restriction.",
            "API_KEY_IP_ADDRESS_BLOCKED",
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "address blocked, old": (
        old_refusal(
            403, "There is a per-IP or per-Referer restriction.", "ipRefererBlocked", "usageLimits"
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "no key": (
        refusal(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). Please use "
            "API Key or other form of API consumer identity to call this API.",
            "forbidden",
            rpc="PERMISSION_DENIED",
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "no key, old": (
        old_refusal(
            403,
            "Daily Limit for Unauthenticated Use Exceeded. Continued use requires signup.",
            "dailyLimitExceededUnreg",
            "usageLimits",
        ),
        Action.DISABLE_KEY,
        None,
    ),
    "not enabled": (
        refusal(
            403,
            "YouTube Data API v3 has not been used in project 123456789012 before or it is disabled. Enable "
            "it by visiting https://console.developers.google.com/apis/api/youtube.googleapis.com/overview"
            "?project=123456789012 then retry.",
            "accessNotConfigured",
            "usageLimits",
            info="SERVICE_DISABLED",
            rpc="PERMISSION_DENIED",
        ),
        Action.DISABLE_PROJECT,
        None,
    ),
    "consumer suspended": (
        _denied(
            403,
            f"Permission denied: Consumer 'api_key:{QUOTED_KEY}' has been suspended.",
            "CONSUMER_SUSPENDED",
        ),
        Action.DISABLE_PROJECT,
        None,
    ),
    "project gone": (
        _denied(400, "Project 'project_number:123' not found or deleted.", "CONSUMER_INVALID"),
        Action.DISABLE_PROJECT,
        None,
    ),
    "billing": (
        _denied(
            403,
            "This API method requires billing to be enabled. Please enable billing on project #123.",
            "BILLING_DISABLED",
        ),
        Action.DISABLE_PROJECT,
        None,
    ),
    "unavailable": (
        refusal(409, "The service is currently unavailable.", "SERVICE_UNAVAILABLE", rpc="ABORTED"),
        Action.RETRY,
        None,
    ),
    "backend": (refusal(503, "Backend Error", "backendError"), Action.RETRY, None),
    "not found": (
        refusal(
            404,
            "The video that you are trying to rate cannot be found.",
            "videoNotFound",
            "youtube.video",
        ),
        Action.FAIL,
        None,
    ),
    "forbidden": (
        refusal(
            403,
            "The playlist items are not accessible.",
            "playlistItemsNotAccessible",
            "youtube.playlistItem",
        ),
        Action.FAIL,
        None,
    ),
    "bad request": (
        refusal(400, "Invalid value at 'max_results' (TYPE_UINT32), \"x\"", "badRequest"),
        Action.FAIL,
        None,
    ),
}
