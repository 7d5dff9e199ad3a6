"""Messages by Apprise and errors to Sentry, by the real libraries and a server on loopback."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from atlas.config import Settings
from atlas.notifications import AlertLevel, Notifier
from tests.support.halt import until
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server

# Apprise's own, at its import
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

SECRET = "hf_" + "s" * 34


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        running.respond = lambda request: Reply(200, b"{}")
        yield running


def make_notifier(**settings: str) -> Notifier:
    secrets = {name: SecretStr(value) for name, value in settings.items()}
    return Notifier(Settings(_env_file=None, **secrets))


async def test_apprise_gets_every_message_without_secrets(server: LoopbackServer) -> None:
    where = server.url.removeprefix("http://")
    notifier = make_notifier(apprise_urls=f"json://{where}/one\n json://{where}/two")
    assert await notifier.send(
        "Archive done", f"token {SECRET}", level=AlertLevel.CRITICAL, fields={"rows": 5}
    )
    assert sorted(request.path.strip("/") for request in server.requests) == ["one", "two"]
    got = json.loads(server.requests[0].body)
    assert (got["title"], got["type"]) == ("Archive done", "failure")
    assert "rows: 5" in got["message"] and SECRET not in json.dumps(got)


@pytest.mark.parametrize("reply", [Reply(500), Reply(cut=True)])
async def test_what_apprise_cannot_send_is_logged_without_the_address(
    server: LoopbackServer, reply: Reply
) -> None:
    server.respond = lambda request: reply
    where = server.url.removeprefix("http://")
    notifier = make_notifier(apprise_urls=f"json://{where}/path-t0ken nonsense")
    with structlog.testing.capture_logs() as logs:
        assert not await notifier.send("t", "d")
    assert [entry["event"] for entry in logs] == ["notification_failed"] * 2
    assert "path-t0ken" not in repr(logs)


@pytest.mark.parametrize("extra", ["apprise", "sentry"])
async def test_an_extra_that_is_not_installed_is_named(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    monkeypatch.setitem(sys.modules, "sentry_sdk.utils", None)
    with structlog.testing.capture_logs() as logs:
        if extra == "apprise":
            assert not await make_notifier(apprise_urls="json://127.0.0.1/x").send("t", "d")
        else:
            notifier = make_notifier(sentry_dsn="http://key@127.0.0.1:1/1")
            await notifier.capture(ValueError("x"))
    missing = [entry for entry in logs if entry["event"] == "notification_extra_missing"]
    assert [entry["extra"] for entry in missing] == [extra]


async def test_sentry_gets_one_error_of_each_group_with_its_fingerprint(
    server: LoopbackServer,
) -> None:
    where = server.url.removeprefix("http://")
    notifier = make_notifier(sentry_dsn=f"http://public@{where}/1")
    marks = set()
    for number in range(50):
        try:
            secret_local = SECRET
            raise ValueError(f"row {number}: {secret_local}")
        except ValueError as error:
            captured = notifier.capture(error, {"row": number, "token": SECRET})
            marks.add(captured.fingerprint)
    await captured
    await until(lambda: bool(server.requests))
    notifier._tracker._sentry.close()
    events = [event for request in server.requests for event in envelope(request)]
    [event] = events
    assert [event["fingerprint"][0]] == list(marks)
    assert event["extra"]["times"] == 50
    assert event["exception"]["values"][0]["type"] == "ValueError"
    assert SECRET not in json.dumps(events)


def envelope(request: Request) -> list[dict[str, Any]]:
    body = request.body
    lines = (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).splitlines()
    documents = [json.loads(line) for line in lines if line.startswith(b"{")]
    return [one for one in documents if "exception" in one]
