"""What an error of a request says, whoever raises it: status, reasons, the limit's name, the message.

Structured bodies are read wherever clients keep them: googleapiclient, aiohttp, httpx, httpx2, requests, and
errors that carry a decoded document. Of text, only one form counts: ``HTTP <status>`` followed by a body that
may be cut anywhere, which is what the platform's agents raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from atlas.errors import AtlasError

__all__ = ["Facts", "YouTubeAPIError", "facts_of", "facts_of_response"]

#: How much of a body is looked at, in bytes; Google's own are below 2 kB.
BODY_LIMIT = 65_536
#: How much of the API's message an error shows.
_SHOWN = 200
#: Google quotes the key in some messages ("Consumer 'api_key:...' has been suspended").
_KEY_TEXT = re.compile(r"(api_key:|key=)?AIza[0-9A-Za-z_-]{10,}|(api_key:|key=)[^\s'\"&]+")
_HTTP_TEXT = re.compile(r"HTTP ([45]\d\d)(?!\d)")
_REASON_TEXT = re.compile(r'"reason"\s*:\s*"([A-Za-z_]{1,64})"')
_LIMIT_TEXT = re.compile(r"\blimit '([^']{1,128})")
_LIMIT_FIELD = re.compile(r'"quota_limit"\s*:\s*"([^"]{1,128})')
#: Deeper documents are not Google's; the reader gives up on them instead of recursing.
_TOO_DEEP = re.compile(r"[\[{]\s*" * 200)


@dataclass(frozen=True, slots=True)
class Facts:
    """``limit`` names the quota limit that was hit; ``html``: a page came instead of JSON."""

    status: int | None = None
    reasons: frozenset[str] = frozenset()
    message: str = ""
    limit: str = ""
    html: bool = False
    retry_after: float | None = None


class YouTubeAPIError(AtlasError):
    """The YouTube Data API answered with an error; what agents may raise so that keys rotate.

    ``status`` is the HTTP status, ``reasons`` are Google's, sorted, ``limit`` is the name of the quota limit
    that was hit (or empty), ``retry_after`` is in seconds (or None). The text never holds a key.
    """

    def __init__(self, facts: Facts) -> None:
        said = _KEY_TEXT.sub("…", " ".join(facts.message.split()))[:_SHOWN]
        parts = [f"HTTP {facts.status or '?'}", " ".join(sorted(facts.reasons)), said]
        super().__init__(": ".join(part for part in parts if part))
        self.facts = facts

    def __reduce__(self) -> tuple[type[Self], tuple[Facts]]:
        return type(self), (self.facts,)

    @classmethod
    def from_response(
        cls, status: int, body: object, headers: Mapping[Any, Any] | None = None
    ) -> Self:
        """From what an HTTP client received: ``body`` as bytes, text or decoded document, whole or cut."""
        return cls(facts_of_response(status, body, headers))

    @property
    def status(self) -> int | None:
        """The HTTP status."""
        return self.facts.status

    @property
    def reasons(self) -> tuple[str, ...]:
        """Google's reasons, sorted."""
        return tuple(sorted(self.facts.reasons))

    @property
    def limit(self) -> str:
        """The name of the quota limit that was hit, or nothing."""
        return self.facts.limit

    @property
    def retry_after(self) -> float | None:
        """Seconds that the answer asks to wait."""
        return self.facts.retry_after


def facts_of(error: BaseException) -> Facts:
    """What ``error`` says. Never raises, whatever the error holds."""
    known = _get(error, "facts")
    if isinstance(known, Facts):
        return known
    response = _get(error, "response")  # no `or`: an answer of 4xx is false in some clients
    if response is None:
        response = _get(error, "resp")
    status = _status(error) or _status(response)
    headers = _headers(error, response)
    for body in _bodies(error, response):
        facts = facts_of_response(status, body, headers)
        if facts.reasons or facts.message or facts.html:
            return facts
    text = _text(error)
    if match := _HTTP_TEXT.match(text):
        return facts_of_response(int(match[1]), text[match.end() :].lstrip(" :-"), headers)
    reason = _get(error, "reason")
    reasons = frozenset([reason] if isinstance(reason, str) and reason.isidentifier() else [])
    return Facts(status, reasons, retry_after=_retry_after(headers))


def facts_of_response(
    status: int | None, body: object, headers: Mapping[Any, Any] | None = None
) -> Facts:
    """What an answer says. ``body`` is a document, text or bytes, whole or cut. Never raises."""
    wait = _retry_after(headers)
    problem, text = _decode(body)
    if problem is not None:
        reasons, message, limit = _read(problem)
        return Facts(
            status or _number(problem.get("code")), reasons, message, limit, retry_after=wait
        )
    named = _LIMIT_FIELD.search(text) or _LIMIT_TEXT.search(text)
    return Facts(
        status,
        frozenset(_REASON_TEXT.findall(text) if status is not None else ()),
        text,
        named[1] if named else "",
        html=text.lstrip()[:1] == "<",
        retry_after=wait,
    )


def _decode(body: object) -> tuple[dict[str, Any] | None, str]:
    """The ``error`` object of a body, or its text where it is no such document."""
    text = ""
    if isinstance(body, bytes | bytearray):
        body = bytes(body[:BODY_LIMIT]).decode("utf-8", "replace")
    if isinstance(body, str):
        text = body[:BODY_LIMIT]
        try:
            body = None if _TOO_DEEP.search(text) else json.loads(text)
        except (ValueError, RecursionError):
            return None, text
    if isinstance(body, list) and body:  # batch endpoints wrap the document in an array
        body = body[0]
    problem = body.get("error") if isinstance(body, dict) else None
    if isinstance(
        problem, str
    ):  # OAuth's form: {"error": "invalid_grant", "error_description": ...}
        return None, ""
    return (problem, "") if isinstance(problem, dict) else (None, text)


def _read(problem: dict[str, Any]) -> tuple[frozenset[str], str, str]:
    """Every reason, the messages as one text, and the name of the limit."""
    reasons: set[str] = set()
    texts: list[str] = []
    limit = ""
    for item in (problem, *_dicts(problem.get("errors")), *_dicts(problem.get("details"))):
        if isinstance(item.get("reason"), str):
            reasons.add(item["reason"])
        if isinstance(item.get("message"), str):
            texts.append(item["message"][:BODY_LIMIT])
        for metadata in _dicts([item.get("metadata")]):
            named = metadata.get("quota_limit")
            limit = named if isinstance(named, str) else limit
    message = "\n".join(dict.fromkeys(texts))
    if not limit and (match := _LIMIT_TEXT.search(message)):
        limit = match[1]
    return frozenset(reasons), message, limit


def _bodies(error: BaseException, response: Any) -> Iterator[Any]:
    for holder in (error, response):
        for name in ("content", "body", "text"):
            body = _get(holder, name)
            if isinstance(body, bytes | bytearray | str | dict | list) and body:
                yield body
    for argument in error.args if isinstance(error.args, tuple) else ():
        if isinstance(argument, dict):
            yield argument


def _headers(error: BaseException, response: Any) -> Mapping[Any, Any] | None:
    for holder in (response, _get(response, "headers"), _get(error, "headers")):
        if isinstance(holder, Mapping):
            return holder
    return None


def _retry_after(headers: Mapping[Any, Any] | None) -> float | None:
    """Seconds that the server asks for; only the form in seconds, which is Google's."""
    try:
        for name, value in (headers or {}).items():
            if str(name).lower() == "retry-after":
                seconds = float(str(value))
                return seconds if 0 <= seconds <= 86_400 else None
    except Exception:
        return None
    return None


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
    """The error's text, or nothing where it cannot be read."""
    try:
        return str(error)
    except Exception:
        return ""
