"""What errors of the YouTube API mean, and when its quota comes back."""

from __future__ import annotations

import errno
import json
import pickle
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.errors import InvalidInput, Unavailable
from atlas.keys import YouTubeAPIError
from atlas.keys.youtube import ACTIONS, Action, classify, judge, next_reset
from tests.support import refusals

PER_DAY = (
    "Quota exceeded for quota metric 'Search Queries' and limit 'Search Queries per day' of service "
    "'youtube.googleapis.com' for consumer 'project_number:1'."
)
PER_MINUTE = PER_DAY.replace("per day", "per minute")


def body(code: int, reason: str, message: str = "", **more: Any) -> bytes:
    """An error body as the API sends it."""
    errors = [{"message": message, "domain": "youtube.quota", "reason": reason}]
    return json.dumps(
        {"error": {"code": code, "message": message, "errors": errors, **more}}
    ).encode()


def info(reason: str, **metadata: str) -> list[dict[str, Any]]:
    return [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": metadata,
        }
    ]


class Response:
    """An answer as requests gives it: false when it is an error."""

    def __init__(self, status: int, content: bytes) -> None:
        self.status_code = status
        self.content = content

    def __bool__(self) -> bool:
        return self.status_code < 400


class Headers(dict[str, str]):
    """An answer as httplib2 gives it: its headers, with a status."""

    status = 0


class GoogleError(Exception):
    """Shaped like googleapiclient's HttpError."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__()
        self.resp = Headers()
        self.resp.status = status
        self.content = content
        self.reason = "Forbidden"


class ClientError(Exception):
    """Shaped like the status errors of httpx and requests."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"{status} for url https://x/")
        self.response = Response(status, content)


class PlainError(Exception):
    """Shaped like those that agents write themselves."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"HTTP {status}: {content.decode()}")
        self.status = status


CASES = [
    (403, body(403, "quotaExceeded", "... because you have exceeded your quota."), Action.REST),
    (403, body(403, "dailyLimitExceeded", "Daily Limit Exceeded"), Action.REST),
    (429, body(429, "rateLimitExceeded", PER_DAY), Action.REST),
    (429, body(429, "rateLimitExceeded", PER_MINUTE), Action.SLOW_DOWN),
    (403, body(403, "rateLimitExceeded", "Rate Limit Exceeded"), Action.SLOW_DOWN),
    (403, body(403, "userRateLimitExceeded", "User Rate Limit Exceeded"), Action.SLOW_DOWN),
    (400, body(400, "keyInvalid", "Bad Request"), Action.DISABLE_KEY),
    (400, body(400, "keyExpired", "Bad Request"), Action.DISABLE_KEY),
    (
        400,
        body(400, "badRequest", "API key not valid. Please pass a valid API key."),
        Action.DISABLE_KEY,
    ),
    (
        403,
        body(403, "accessNotConfigured", "YouTube Data API has not been used"),
        Action.DISABLE_PROJECT,
    ),
    (400, body(400, "badRequest", "Invalid value for part"), Action.FAIL),
    (400, body(400, "invalidParameter", ""), Action.FAIL),
    (404, body(404, "videoNotFound", "The video cannot be found."), Action.FAIL),
    (403, body(403, "forbidden", "Access forbidden"), Action.FAIL),
    (403, body(403, "commentsDisabled", "The video has disabled comments"), Action.FAIL),
    (500, body(500, "backendError", "Backend Error"), Action.RETRY),
    (503, b"<html>Service Unavailable</html>", Action.RETRY),
    (404, b"<html>Not Found</html>", Action.FAIL),
    (403, b"", Action.FAIL),
    (429, b"", Action.SLOW_DOWN),
]


def agents_error(status: int, content: bytes) -> Exception:
    """As the platform's own agents raise it."""
    return Exception(f"HTTP {status}: {content.decode()[:200]}")


@pytest.mark.parametrize(
    "kind", [GoogleError, ClientError, PlainError, agents_error, YouTubeAPIError.from_response]
)
@pytest.mark.parametrize(("status", "content", "action"), CASES)
def test_the_apis_errors_are_judged_by_reason_whoever_reports_them(
    kind: type[Exception], status: int, content: bytes, action: Action
) -> None:
    assert classify(kind(status, content)) is action


def test_error_details_decide_where_the_old_reasons_say_too_little() -> None:
    expired = body(
        400, "badRequest", "API key expired. Renew the API key.", details=info("API_KEY_INVALID")
    )
    assert classify(GoogleError(400, expired)) is Action.DISABLE_KEY
    disabled = body(403, "forbidden", "", details=info("SERVICE_DISABLED"))
    assert classify(GoogleError(403, disabled)) is Action.DISABLE_PROJECT
    daily = info("RATE_LIMIT_EXCEEDED", quota_limit="defaultSearchPerDayPerProject")
    assert (
        classify(GoogleError(429, body(429, "rateLimitExceeded", "", details=daily))) is Action.REST
    )


def test_the_gravest_of_several_reasons_decides() -> None:
    both = {"errors": [{"reason": "rateLimitExceeded"}, {"reason": "quotaExceeded"}], "code": 403}
    assert classify(GoogleError(403, json.dumps({"error": both}).encode())) is Action.REST


def test_errors_without_a_body_are_judged_by_reason_or_status() -> None:
    class WithReason(Exception):
        reason = "quotaExceeded"

    assert classify(WithReason()) is Action.REST
    assert classify(RuntimeError("HTTP 403")) is Action.FAIL
    assert classify(RuntimeError("HTTP 429")) is Action.SLOW_DOWN
    assert classify(RuntimeError("HTTP 500: ")) is Action.RETRY


@pytest.mark.parametrize(
    "text",
    [
        "YouTube says quotaExceeded",
        "HTTP error 403: quotaExceeded",
        'comment: HTTP 403: {"error": {"errors": [{"reason": "quotaExceeded"}]}}',
        "HTTP 4031 exceeded your quota",
        "title of a video: API key not valid",
    ],
)
def test_no_other_text_decides_anything(text: str) -> None:
    assert classify(RuntimeError(text)) is Action.FAIL


def aiohttp_error(status: int) -> aiohttp.ClientResponseError:
    url: Any = "https://x/"
    request = aiohttp.RequestInfo(url, "GET", {}, url)  # not looked at
    return aiohttp.ClientResponseError(request, (), status=status, message="said")


def test_aiohttp_errors_have_no_body_so_only_a_clear_status_counts() -> None:
    assert classify(aiohttp_error(503)) is Action.RETRY
    assert classify(aiohttp_error(429)) is Action.SLOW_DOWN
    assert classify(aiohttp_error(403)) is Action.FAIL


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        socket.gaierror(-2, "Name or service not known"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        ssl.SSLEOFError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError(),
        Unavailable("down"),
    ],
)
def test_network_failures_are_retried(error: Exception) -> None:
    assert classify(error) is Action.RETRY


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such file"),
        ssl.SSLCertVerificationError("self-signed"),
        aiohttp.InvalidURL("nowhere"),
        InvalidInput("wrong"),
        KeyError("items"),
        ValueError("404"),
    ],
)
def test_faults_of_the_program_are_not_taken_for_the_networks(error: Exception) -> None:
    assert classify(error) is Action.FAIL


def test_an_error_that_cannot_be_read_is_judged_by_what_can_be() -> None:
    class Unread(Exception):
        status_code = 502

        @property
        def content(self) -> bytes:
            raise RuntimeError("the answer was streamed")

        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert classify(Unread()) is Action.RETRY


@pytest.mark.parametrize("name", refusals.PUBLISHED)
@pytest.mark.parametrize("cut", [None, 200], ids=["whole", "cut"])
def test_bodies_as_google_sends_them_are_judged_alike_whole_and_cut(
    name: str, cut: int | None
) -> None:
    refusal, action, bucket = refusals.PUBLISHED[name]
    text = refusal.body.decode()
    verdict = judge(Exception(f"HTTP {refusal.status}: {text[:cut]}"))
    assert verdict.action is action
    assert verdict.bucket == bucket


def test_every_reason_that_google_publishes_is_classified() -> None:
    from google.api.error_reason_pb2 import ErrorReason

    published = set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    assert published <= set(ACTIONS)


def test_the_limits_name_goes_before_the_reason() -> None:
    message = (
        "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute per user' of x"
    )
    assert classify(GoogleError(403, body(403, "quotaExceeded", message))) is Action.SLOW_DOWN


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"x" * 1_000_000,
        b"\xff\x00" * 500,
        b'{"error": "' + b"a" * 1_000_000,
        b"[[]]",
    ],
)
def test_deep_binary_and_huge_bodies_never_raise(content: bytes) -> None:
    for error in (GoogleError(403, content), Exception(f"HTTP 403: {content!r}")):
        assert classify(error) is Action.FAIL


def test_a_sorry_page_blocks_the_address_and_other_pages_do_not() -> None:
    assert classify(GoogleError(429, refusals.SORRY.body)) is Action.BLOCKED
    assert classify(Exception(f"HTTP 429: {refusals.SORRY.body.decode()[:200]}")) is Action.BLOCKED
    assert (
        classify(GoogleError(403, b"<html><title>Error 403 (Forbidden)!!1</title>")) is Action.FAIL
    )


def test_an_error_made_from_an_answer_says_what_it_said_without_the_key() -> None:
    suspended = refusals.PUBLISHED["consumer suspended"][0]
    error = YouTubeAPIError.from_response(403, suspended.body, {"Retry-After": "7"})
    assert (error.status, error.retry_after) == (403, 7.0)
    assert error.reasons == ("CONSUMER_SUSPENDED", "forbidden")
    assert "AIza" in suspended.body.decode() and "AIza" not in str(error)
    assert classify(pickle.loads(pickle.dumps(error))) is Action.DISABLE_PROJECT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["error", "errors", "details", "reason", "message", "metadata", "code"])
        | st.text(max_size=5),
        inner,
        max_size=4,
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(
    content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps({"error": value}).encode())
)
def test_no_body_whatever_breaks_the_judgement(content: bytes) -> None:
    assert classify(GoogleError(400, content)) in Action


@pytest.mark.parametrize(
    ("now", "reset"),
    [
        ("2026-01-15T12:00:00+00:00", "2026-01-16T08:00:00+00:00"),  # winter: UTC-8
        ("2026-07-15T12:00:00+00:00", "2026-07-16T07:00:00+00:00"),  # summer: UTC-7
        ("2026-07-15T06:59:59+00:00", "2026-07-15T07:00:00+00:00"),  # a second before
        ("2026-07-15T07:00:00+00:00", "2026-07-16T07:00:00+00:00"),  # at the reset itself
        ("2026-03-08T08:00:00+00:00", "2026-03-09T07:00:00+00:00"),  # the day of 23 hours
        ("2026-11-01T07:00:00+00:00", "2026-11-02T08:00:00+00:00"),  # the day of 25 hours
        ("2026-12-31T23:00:00+09:00", "2027-01-01T08:00:00+00:00"),  # any zone, over the year's end
    ],
)
def test_quota_comes_back_at_midnight_in_los_angeles(now: str, reset: str) -> None:
    found = next_reset(datetime.fromisoformat(now))
    assert found == datetime.fromisoformat(reset)
    assert found.tzinfo is UTC


@settings(deadline=None)
@given(st.integers(1_577_836_800, 2_051_222_400).map(lambda at: datetime.fromtimestamp(at, UTC)))
def test_the_reset_is_the_next_local_midnight_within_25_hours(now: datetime) -> None:
    reset = next_reset(now)
    local = reset.astimezone(ZoneInfo("America/Los_Angeles"))
    assert (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)
    assert timedelta(0) < reset - now <= timedelta(hours=25)
