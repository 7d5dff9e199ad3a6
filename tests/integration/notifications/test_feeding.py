"""Atlas's own jobs have their errors tracked, and only what was not foreseen."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.archive import Archiver
from atlas.archive import archiver as archiver_module
from atlas.config import Settings
from atlas.db import Database
from atlas.errors import ArchiverBusy, LeaseLost, VaultUnavailable, VerificationFailed
from atlas.events import Event, EventBus
from atlas.janitor import Janitor
from atlas.keys import HydraExecutor, KeyRing
from atlas.notifications import Notifier, jobs
from atlas.scheduling import Work
from atlas.vault import LocalVault
from tests.support.servers.http import Reply, loopback_server
from tests.support.servers.youtube import DEAD, NOT_FOUND, YouTube
from tests.support.sql import fetch, scalar

SECRET = "hf_" + "s" * 34


@pytest.fixture
def notifier(database: Database, monkeypatch: pytest.MonkeyPatch) -> Notifier:
    made = Notifier(Settings(_env_file=None), database)
    monkeypatch.setattr(jobs, "notifier", made)
    return made


async def groups(notifier: Notifier, database: Database, job: str) -> list[tuple[str, str, str]]:
    """What a job had tracked; threads of earlier tests may still end theirs."""
    await notifier.flush()
    rows = await fetch(database, "SELECT * FROM error_groups ORDER BY first_at, kind")
    return [
        (row["kind"], row["level"], row["context"]["job"])
        for row in rows
        if row["context"]["job"] == job
    ]


@pytest.mark.parametrize(
    ("error", "tracked"),
    [
        (VerificationFailed("the file differs"), [("VerificationFailed", "CRITICAL", "archiver")]),
        (VaultUnavailable("no answer"), [("VaultUnavailable", "WARNING", "archiver")]),
        (ArchiverBusy("another one is at work"), []),
        (LeaseLost("the fence ran out"), []),
    ],
)
async def test_the_archiver_tracks_what_was_not_foreseen(
    notifier: Notifier,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    tracked: list[Any],
) -> None:
    @contextlib.asynccontextmanager
    async def fail(*args: Any, **options: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(archiver_module, "begin_job", fail)
    with pytest.raises(type(error)):
        await Archiver(database, LocalVault("vault")).run()
    assert await groups(notifier, database, "archiver") == tracked


async def test_the_janitor_tracks_what_it_fails_with(
    notifier: Notifier, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Janitor) -> None:
        raise RuntimeError(f"no room; token {SECRET}")

    monkeypatch.setattr(Janitor, "_partitions_ahead", fail)
    with pytest.raises(RuntimeError):
        await Janitor(database, LocalVault("vault")).run()
    assert await groups(notifier, database, "janitor") == [("RuntimeError", "CRITICAL", "janitor")]
    assert SECRET not in str(await fetch(database, "SELECT * FROM error_groups"))


async def test_the_deliverer_tracks_handlers_that_fail_and_keeps_no_secret(
    notifier: Notifier, database: Database
) -> None:
    bus = EventBus(database, Settings(_env_file=None))

    @bus.target("index")
    def fail(event: Event) -> None:
        raise RuntimeError(f"the index refused {SECRET}")

    await bus.endpoints.add_route("video.*", "handler:index")
    await bus.emit("video.discovered", "V1")
    assert await bus.deliver_pending() == 0
    assert await groups(notifier, database, "deliverer") == [
        ("RuntimeError", "CRITICAL", "deliverer")
    ]
    kept = await scalar(database, "SELECT last_error FROM event_deliveries")
    assert kept == "RuntimeError: the index refused ***"


async def test_the_executor_tracks_a_dead_key_in_words_without_it(
    notifier: Notifier, database: Database
) -> None:
    key = "unlike-any-other-0123456789"
    with loopback_server() as server:
        service = YouTube(server)
        service.script(key, DEAD)
        with pytest.raises(Exception, match="refused for good"):
            await HydraExecutor(KeyRing("hunting", [key])).execute_async(service.search)
        service.script("other-key-0123456789", NOT_FOUND)
        executor = HydraExecutor(KeyRing("tracking", ["other-key-0123456789"]))
        with pytest.raises(Exception, match="404"):
            await executor.execute_async(service.search)  # the caller's matter
    assert await groups(notifier, database, "executor")
    assert key not in str(await fetch(database, "SELECT * FROM error_groups"))


async def test_a_notification_that_fails_is_no_error_to_track(
    notifier: Notifier, database: Database
) -> None:
    with loopback_server() as server:
        server.respond = lambda request: Reply(400)
        notifier._settings = Settings(
            _env_file=None, discord_webhook_alerts=SecretStr(f"{server.url}/x")
        )
        jobs.note(RuntimeError("once"), "janitor")
        assert len(await groups(notifier, database, "janitor")) == 1
        await notifier.flush()
        assert len(server.requests) == 1
    assert await scalar(database, "SELECT sum(count) FROM error_groups") == 1


async def test_nothing_is_tracked_where_it_could_not_be_kept_or_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notifier = Notifier(Settings(_env_file=None))
    monkeypatch.setattr(jobs, "notifier", notifier)
    jobs.note(RuntimeError("unheard"), "janitor")
    assert not notifier._tracker._is_running()


async def test_the_reason_of_a_failed_piece_of_work_is_kept_without_secrets(
    work: Work, filled: None, database: Database
) -> None:
    async with work.claim("hunt", limit=1) as batch:
        for item in batch:
            item.fail("x" * 480 + f" refused {SECRET}")
    kept = await scalar(database, "SELECT error FROM search_queue WHERE error IS NOT NULL")
    assert kept.endswith(" refused ***") and SECRET[:5] not in kept
