"""What an error of the YouTube Data API means for the key, and when its quota comes back.

The sources are the API's error reference and quota pages. An error is judged by the reasons and the
message in its body, never by the status alone: 403 is a spent quota as well as a private playlist.
"""

from __future__ import annotations

import errno
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from atlas.errors import Unavailable

__all__ = ["Action", "classify", "next_reset"]


class Action(Enum):
    """What to do after an error."""

    REST = "rest"  #: the project's quota is spent: next key, this one after the reset
    SLOW_DOWN = "slow_down"  #: too fast: a short rest, then again
    DISABLE_KEY = "disable_key"  #: the key is dead: next key
    DISABLE_PROJECT = "disable_project"  #: the API is not enabled there: next key
    RETRY = "retry"  #: the service or the network failed: again
    FAIL = "fail"  #: about this request, not about the key: the caller's


_ACTIONS = {
    "quotaExceeded": Action.REST,
    "dailyLimitExceeded": Action.REST,
    "rateLimitExceeded": Action.SLOW_DOWN,
    "userRateLimitExceeded": Action.SLOW_DOWN,
    "RATE_LIMIT_EXCEEDED": Action.SLOW_DOWN,
    "keyInvalid": Action.DISABLE_KEY,
    "keyExpired": Action.DISABLE_KEY,
    "API_KEY_INVALID": Action.DISABLE_KEY,
    "accessNotConfigured": Action.DISABLE_PROJECT,
    "SERVICE_DISABLED": Action.DISABLE_PROJECT,
}
_WORDS = re.compile(rf"\b({'|'.join(_ACTIONS)})\b")
_DEAD_KEY = re.compile(r"API key (not valid|expired)", re.IGNORECASE)
_PER_DAY = re.compile(r"per[ _]?day", re.IGNORECASE)
#: Where several reasons are given, the first of these decides.
_ORDER = (Action.DISABLE_PROJECT, Action.DISABLE_KEY, Action.REST, Action.SLOW_DOWN)
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


@dataclass(frozen=True, slots=True)
class _Facts:
    status: int | None
    reasons: frozenset[str]
    message: str


def classify(error: BaseException) -> Action:
    """What ``error`` asks for. Never raises, whatever the error holds.

    Takes googleapiclient's ``HttpError``, the status errors of httpx, aiohttp and requests, errors with a
    ``reason``, and, where there is no body to read, plain errors whose text names a reason.
    """
    facts = _facts(error)
    actions = {_ACTIONS[reason] for reason in facts.reasons if reason in _ACTIONS}
    if _DEAD_KEY.search(facts.message):
        actions.add(Action.DISABLE_KEY)
    too_fast = Action.SLOW_DOWN in actions or facts.status == 429
    if too_fast:
        actions.add(Action.REST if _PER_DAY.search(facts.message) else Action.SLOW_DOWN)
    for action in _ORDER:
        if action in actions:
            return action
    if facts.status is not None:
        return Action.RETRY if facts.status >= 500 else Action.FAIL
    return Action.RETRY if _is_network(error) else Action.FAIL


def next_reset(now: datetime) -> datetime:
    """The moment, in UTC, of the next midnight in Los Angeles, when quotas come back.

    ``now`` is timezone-aware. Days there have 23 to 25 hours.
    """
    there = ZoneInfo("America/Los_Angeles")
    tomorrow = now.astimezone(there).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), tzinfo=there).astimezone(UTC)


def _facts(error: BaseException) -> _Facts:
    response = _get(error, "response")  # no `or`: an answer of 4xx is false in some clients
    if response is None:
        response = _get(error, "resp")
    status = _status(error) or _status(response)
    for holder in (error, response):
        for name in ("content", "body", "text"):
            problem = _problem(_get(holder, name))
            if problem is not None:
                reasons, texts = _read(problem)
                return _Facts(status or _number(problem.get("code")), reasons, texts)
    message = " ".join(t for t in (_get(error, "message"), _text(error)) if isinstance(t, str))
    reasons = frozenset(_WORDS.findall(message))
    reason = _get(error, "reason")
    if isinstance(reason, str):
        reasons |= {reason}
        message = f"{message} {reason}"
    return _Facts(status, reasons, message)


def _problem(body: Any) -> dict[str, Any] | None:
    """The ``error`` object of an answer's body, or None where the body is something else."""
    if isinstance(body, bytes | bytearray | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    problem = body.get("error") if isinstance(body, dict) else None
    return problem if isinstance(problem, dict) else None


def _read(problem: dict[str, Any]) -> tuple[frozenset[str], str]:
    """Every reason, and all messages and limit names as one text."""
    reasons: set[str] = set()
    texts: list[str] = []
    for item in (problem, *_dicts(problem.get("errors")), *_dicts(problem.get("details"))):
        if isinstance(item.get("reason"), str):
            reasons.add(item["reason"])
        if isinstance(item.get("message"), str):
            texts.append(item["message"])
        for metadata in _dicts([item.get("metadata")]):
            texts.append(str(metadata.get("quota_limit", "")))
    return frozenset(reasons), " ".join(texts)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in (value if isinstance(value, list) else []) if isinstance(item, dict))


def _status(holder: Any) -> int | None:
    for name in ("status_code", "status", "code"):
        number = _number(_get(holder, name))
        if number is not None:
            return number
    return None


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    return int(value) if isinstance(value, int) and 400 <= value <= 599 else None


def _get(holder: Any, name: str) -> Any:
    # reading the body of a streamed answer raises in some clients
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _text(error: BaseException) -> str:
    """The error's text, or nothing where it cannot be had."""
    try:
        return str(error)
    except Exception:
        return ""


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
