"""Tokens, keys and passwords are in nothing that a run shows or leaves behind, above all one that fails."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from atlas.config import Settings
from atlas.db import Database
from atlas.errors import AtlasError, DatabaseError, VaultError
from atlas.events import EventBus
from atlas.ingest import record_samples
from atlas.keys import HydraExecutor, KeyRing
from atlas.logging import configure, get_logger
from atlas.notifications import Notifier
from atlas.vault import GCSVault, HuggingFaceVault, Vault
from tests.contracts.stores.test_failures import METHODS, fail_everything
from tests.support.impatience import no_pauses
from tests.support.leaks import Leaks, everything_in, everything_of
from tests.support.samples import samples
from tests.support.servers import gcs_proxy, hub_server, youtube
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply, loopback_server
from tests.support.servers.hub_server import Hub
from tests.support.servers.postgres import Server
from tests.support.servers.youtube import YouTube
from tests.support.stores import close

# the Hub's client itself passes ``data=`` to its HTTP library, which wants ``content=``
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

PASSWORD = "pa55-of-the-database"
API_KEY = "AIzaSy" + "K" * 33
DISCORD = "d1sc0rd-webhook-token"
EVENTS = "whsec_" + base64.b64encode(bytes(range(32))).decode()
#: What the Hub refuses, or fails on.
TOKEN = "hf_" + "s" * 34

FAILURES = {
    "401": refusal(401, "no"),
    "403": refusal(403, "no"),
    "500": refusal(500),
    "cut": Reply(cut=True),
}
FORMATS: tuple[Literal["console", "json"], ...] = ("console", "json")

#: Gives each command of a list, in both formats of the log, as an operator would one after the other.
PROGRAM = """
import json, os, sys
from atlas.cli.main import main
from atlas.config import reset_settings
from tests.support.impatience import no_pauses
commands = json.loads(sys.argv[1])
with no_pauses():
    for form in ("console", "json"):
        os.environ["LOG_FORMAT"] = form
        for command in commands:
            reset_settings()
            sys.argv[1:] = command
            try:
                main()
            except SystemExit:
                pass
            except Exception:  # what --debug raises is shown as Python shows it
                sys.excepthook(*sys.exc_info())
"""
COMMANDS = [
    ["doctor", "--json"],
    ["status"],
    ["archive"],
    ["--debug", "archive"],
    ["vault", "ls"],
    ["--debug", "vault", "ls"],
    ["vault", "fsck"],
    ["history", "video-0001"],
    ["keys", "--json"],
    ["events", "--deliver", "--json"],
]


@pytest.fixture
def leaks() -> Leaks:
    return Leaks(
        token=TOKEN,
        hub_token=hub_server.TOKEN,
        password=PASSWORD,
        api_key=API_KEY,
        discord=DISCORD,
        event_secret=EVENTS,
        event_secret_bytes=bytes(range(32)).decode("latin-1"),
    )


@dataclass
class Service:
    """A vault on a server, and the variables that name both."""

    server: Gcs | Hub
    vault: Vault
    variables: dict[str, str]


@pytest.fixture(params=["gcs", "huggingface"])
def service(request: pytest.FixtureRequest, tmp_path: Path, leaks: Leaks) -> Iterator[Service]:
    if request.param == "huggingface":
        hub: Hub = request.getfixturevalue("hub")
        variables = {"HF_ENDPOINT": hub.url, "HF_REPO_ID": hub_server.REPO, "HF_TOKEN": TOKEN}
        found = HuggingFaceVault(hub_server.REPO, TOKEN, endpoint=hub.url)
        yield Service(hub, found, variables)
        return
    gcs: Gcs = request.getfixturevalue("gcs")
    path: Path = request.getfixturevalue("key_file")
    leaks.add_key(json.loads(path.read_text())["private_key"])
    leaks._forms["access token"] = {str(gcs.bearer)}
    variables = {
        "STORAGE_EMULATOR_HOST": gcs.url,
        "GCS_BUCKET_NAME": gcs_proxy.BUCKET,
        "GOOGLE_APPLICATION_CREDENTIALS": str(path),
        "VAULT_PREFIX": f"run/{tmp_path.name}",
    }
    vault = GCSVault(gcs_proxy.BUCKET, path, variables["VAULT_PREFIX"], endpoint=gcs.url)
    yield Service(gcs, vault, variables)
    close(vault.store)


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


def fail(server: Gcs | Hub, failure: str) -> None:
    """From now on; the token endpoint refuses too where credentials are refused."""
    fail_everything(server, FAILURES[failure])
    if failure == "401" and isinstance(server, Gcs):
        server.faults["token"].clear()
        server.faults["token"].extend([Reply(400, b'{"error": "invalid_grant"}')] * 99)
    elif isinstance(server, Gcs):
        server.faults["token"].clear()


@pytest.mark.parametrize("failure", FAILURES)
def test_no_error_of_a_vault_shows_its_secrets(
    service: Service,
    leaks: Leaks,
    failure: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    fail(service.server, failure)
    vault = service.vault
    shown = [repr(vault), repr(vault.store), vault.identity, vault.store.uri("a")]
    log = get_logger("atlas.tests.secrets")
    for method, call in METHODS.items():
        try:
            call(vault)
        except VaultError as raised:
            error = raised
        else:
            assert method == "store_json"  # which waits on the disk in an outage
            continue
        shown += [everything_of(error)]
        for form in FORMATS:
            configure(Settings(log_level="DEBUG", log_format=form))
            log.error("failed", method=method, exc_info=error)
            # as a program does that logs what it works with
            log.error("failed", vault=vault, store=vault.store, error=error)
    try:
        vault.append_metrics([{"video_id": "V1", "views": 1}])
    except VaultError as error:
        shown += [everything_of(error)]
    waiting = vault.pending()
    assert waiting.count - waiting.documents == 1
    for outbox in vault._outboxes.values():
        outbox.stop()
    assert not leaks.found(*shown, *capfd.readouterr(), caplog.text)
    assert not leaks.found(*everything_in(tmp_path / "home"))


@pytest.mark.parametrize("form", [None, *FORMATS])
async def test_a_handler_of_events_that_fails_on_the_vault_shows_no_secrets(
    service: Service,
    leaks: Leaks,
    form: Literal["console", "json"] | None,
    database: Database,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whose traceback is logged, without log settings too."""
    if form is not None:
        configure(Settings(log_level="DEBUG", log_format=form))
    fail(service.server, "403")
    bus = EventBus(database, Settings())

    @bus.on("*")
    def handle(event: Any) -> None:
        service.vault.fetch_json("a.json")

    await bus.emit("video.discovered", "V1")
    await bus.drain()
    shown = capfd.readouterr()
    # without settings, pytest's own handlers are given what Python's last resort would print
    told = shown.out + shown.err if form is not None else caplog.text
    assert "VaultDenied" in told
    assert not leaks.found(*shown, caplog.text)


@pytest.mark.parametrize("failure", FAILURES)
async def test_the_program_shows_and_leaves_no_secrets(
    service: Service,
    leaks: Leaks,
    failure: str,
    database: Database,
    database_url: str,
    postgres_server: Server,
    tmp_path: Path,
) -> None:
    await record_samples(database, samples(times=2))
    with loopback_server() as receiver:
        receiver.respond = lambda request: FAILURES[failure]
        webhook = f"{receiver.url}/hook"
        settings = Settings(
            event_bus_webhook_url=SecretStr(webhook), event_bus_webhook_secret=SecretStr(EVENTS)
        )
        bus = EventBus(database, settings)
        await bus.emit("video.discovered", "V1")
        await bus.drain()
        fail(service.server, failure)
        done = await asyncio.to_thread(
            run_program,
            COMMANDS,
            tmp_path,
            {
                **service.variables,
                "DATABASE_URL": with_password(database_url),
                "YOUTUBE_API_KEY_POOL_JSON": json.dumps([API_KEY]),
                "EVENT_BUS_WEBHOOK_URL": webhook,
                "EVENT_BUS_WEBHOOK_SECRET": EVENTS,
                "DISCORD_WEBHOOK_ALERTS": f"{receiver.url}/api/webhooks/1/{DISCORD}",
                "LOG_LEVEL": "DEBUG",
            },
        )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said.decode()
    assert b"error:" in said  # it did fail
    assert not leaks.found(said)
    dump = postgres_server.pg_dump(database_url)
    assert "video_stats_log" in dump
    assert not leaks.found(dump, *everything_in(tmp_path / "home"))


def run_program(
    commands: list[list[str]], folder: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Give the commands in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        check=False,
        cwd=folder,
        timeout=120,
        env={
            **os.environ,
            **variables,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
    )


@pytest.mark.parametrize("failure", ["403", "500", "cut"])
def test_what_was_foreseen_is_told_without_a_traceback(
    service: Service, failure: str, database_url: str, tmp_path: Path
) -> None:
    fail(service.server, failure)
    commands = [["vault", "ls"], ["archive"], ["doctor"]]
    done = run_program(commands, tmp_path, {**service.variables, "DATABASE_URL": database_url})
    assert done.stderr.count(b"error:") >= 4  # two commands, in two formats of the log
    assert b"Traceback" not in done.stdout + done.stderr


def with_password(url: str) -> str:
    """The same server, which asks for none, by a URL that has one."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.split(':')[0] or 'postgres'}:{PASSWORD}@{host}").geturl()


@pytest.mark.parametrize("answers", [True, False], ids=["cut", "refused"])
async def test_a_database_that_does_not_answer_shows_no_password(
    answers: bool, leaks: Leaks, capfd: pytest.CaptureFixture[str]
) -> None:
    with loopback_server() as server:
        server.respond = lambda request: Reply(cut=True)
        where = urlsplit(server.url).netloc
        if not answers:
            server.close()
        database = Database(f"postgresql://atlas:{PASSWORD}@{where}/atlas?connect_timeout=2")
        shown = [repr(database)]
        try:
            with pytest.raises(DatabaseError) as caught:
                async with database.session() as session:
                    await session.execute(text("SELECT 1"))
            shown.append(everything_of(caught.value))
            for form in FORMATS:
                configure(Settings(log_level="DEBUG", log_format=form))
                get_logger("atlas.tests.secrets").error(
                    "failed", database=database, exc_info=caught.value
                )
            assert not await database.health_check()
        finally:
            await database.close()
    assert not leaks.found(*shown, *capfd.readouterr())


@pytest.mark.parametrize(
    "reply",
    [youtube.DEAD, youtube.SPENT, youtube.NOT_ENABLED, youtube.BROKEN, Reply(401), Reply(cut=True)],
    ids=["dead", "spent", "not-enabled", "broken", "401", "cut"],
)
@pytest.mark.parametrize("form", FORMATS)
async def test_an_api_key_that_fails_is_shown_masked(
    reply: Reply,
    form: Literal["console", "json"],
    leaks: Leaks,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr("atlas.retry.pause", at_once)
    configure(Settings(log_level="DEBUG", log_format=form))
    ring = KeyRing("hunting", [API_KEY])
    shown = [repr(ring), repr(ring.status())]
    with loopback_server() as server:
        service = YouTube(server)
        service.script(API_KEY, reply)
        try:
            await HydraExecutor(ring, on_exhausted="raise").execute_async(service.search)
        except AtlasError as error:
            shown.append(everything_of(error))
        except Exception as error:
            # the request's own error comes out as it was raised: only what Atlas adds counts
            shown += getattr(error, "__notes__", [])
    assert not leaks.found(*shown, *capfd.readouterr())


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("form", FORMATS)
async def test_a_webhook_that_fails_is_not_shown(
    failure: str,
    form: Literal["console", "json"],
    leaks: Leaks,
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure(Settings(log_level="DEBUG", log_format=form))
    with loopback_server() as server:
        server.respond = lambda request: FAILURES[failure]
        webhook = SecretStr(f"{server.url}/api/webhooks/1/{DISCORD}")
        notifier = Notifier(Settings(discord_webhook_alerts=webhook))
        notifier.delay = 0.0
        assert not await notifier.send("A title", "A text")
    assert not leaks.found(repr(notifier), *capfd.readouterr())
