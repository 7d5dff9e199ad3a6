"""An archiver that lost its lock without noticing: another one has taken over, and it must change nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import atlas.archive.fencing.lock
from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.vault import LocalVault
from tests.faults.schedule import STEPS
from tests.support.children.archive_child import DONE, KILLED, LEASE_LOST, PATIENCE, RETENTION
from tests.support.faulty_store import Fault, Faults
from tests.support.samples import as_written, in_folder, samples, visible
from tests.support.sql import execute, fetch, scalar

#: How the archive's lock is held, by the setting that decides it.
LOCKS = {"session": "the advisory lock", "transaction": "the lease"}

#: Seconds; heartbeats come four times as often.
LEASE_SECONDS = 0.5

_HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND objid = hashtext('atlas.archiver')::bigint & 4294967295
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """


@pytest.fixture(params=LOCKS)
def lock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of lock that this test's archivers hold."""
    monkeypatch.setenv("DATABASE_POOL_MODE", request.param)
    monkeypatch.setattr(atlas.archive.fencing.lock, "LEASE_SECONDS", LEASE_SECONDS)
    reset_settings()
    return str(request.param)


#: The swap of the epoch.
SWAP = ("compare_and_swap", 1)


async def lose(database: Database, lock: str) -> None:
    """Have the paused archiver's lock lost: its connection cut, or its lease run out."""
    if lock == "session":
        assert await scalar(database, f"SELECT pg_terminate_backend(pid) FROM ({_HOLDER}) AS h")
    held = (
        _HOLDER if lock == "session" else "SELECT 1 FROM archive_control WHERE held_until > now()"
    )
    async with asyncio.timeout(PATIENCE):
        while await fetch(database, held):  # noqa: ASYNC110 - nobody tells when a lease is over
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("step", STEPS)
async def test_an_archiver_that_was_overtaken_at_this_step_changes_nothing(
    step: str, lock: str, start: Any, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    rows = samples(times=24)
    await record_samples(database, rows)
    slow = start(database, "archive_in_turn", pause_at=(step, 1), lease_seconds=LEASE_SECONDS)
    await slow.paused()
    await lose(database, lock)
    await Archiver(database, vault).run(RETENTION)
    ledger = await fetch(database, "SELECT * FROM archive_files ORDER BY id")
    objects = list(vault.store.list("video_stats"))
    control = await fetch(database, "SELECT * FROM archive_control")
    slow.resume()
    # after its last step there is nothing left for it to do
    assert await slow.code() == (DONE if step == "archive_live" else LEASE_LOST)
    assert await fetch(database, "SELECT * FROM archive_files ORDER BY id") == ledger
    assert await fetch(database, "SELECT * FROM archive_control") == control
    assert list(vault.store.list("video_stats")) == objects
    assert await visible(database, vault) == as_written(rows)
    assert in_folder(str(tmp_path / "vault" / "video_stats")) == as_written(rows).keys()


@pytest.mark.parametrize("moment", ["store_fault", "store_did"], ids=["before", "after"])
async def test_an_archiver_that_was_overtaken_at_its_swap_of_the_epoch_leaves_the_epoch_alone(
    moment: str, lock: str, start: Any, database: Database, tmp_path: Path
) -> None:
    archiver = Archiver(database, LocalVault(tmp_path / "vault"))
    await record_samples(database, samples(times=6))
    slow = start(
        database,
        "archive",
        faults=Faults(at={SWAP: Fault.SLOW}),
        pause_at=(moment, 1),
        lease_seconds=LEASE_SECONDS,
    )
    await slow.paused()
    await lose(database, lock)
    await archiver.run(RETENTION)
    slow.resume()
    assert await slow.code() == LEASE_LOST
    await archiver.run(RETENTION)


async def test_an_archiver_overtaken_by_one_that_died_at_its_swap_announces_nothing_over_it(
    start: Any, database: Database, tmp_path: Path
) -> None:
    await record_samples(database, samples(times=6))
    look = Faults(at={("get_bytes", 1): Fault.SLOW})
    slow = start(database, "archive", faults=look, pause_at=("store_did", 1))
    await slow.paused()
    await lose(database, "session")
    dying = start(database, "archive", faults=Faults(at={SWAP: Fault.KILL_AFTER}))
    assert await dying.code() == KILLED
    slow.resume()
    assert await slow.code() == LEASE_LOST
    await Archiver(database, LocalVault(tmp_path / "vault")).run(RETENTION)


async def test_an_archiver_overtaken_when_it_has_misread_an_object_does_not_delete_it(
    lock: str, start: Any, database: Database, tmp_path: Path
) -> None:
    """What it takes for damaged is right in the store, and counts by the time it goes on."""
    vault = LocalVault(tmp_path / "vault")
    rows = samples(times=6)
    await record_samples(database, rows)
    slow = start(
        database,
        "archive",
        faults=Faults(at={("open", 1): Fault.MISREAD}),
        pause_at=("archive_object_differs", 1),
        lease_seconds=LEASE_SECONDS,
    )
    await slow.paused()
    await lose(database, lock)
    await Archiver(database, vault).run(RETENTION)
    slow.resume()
    assert await slow.code() == LEASE_LOST
    assert await visible(database, vault) == as_written(rows)


async def test_an_erasure_that_was_overtaken_deletes_no_file_that_was_made_meanwhile(
    lock: str, start: Any, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    await record_samples(database, samples(times=6))
    await Archiver(database, vault).run(RETENTION)
    # the first listing is of appended metrics, the next ones are of what the ledger may not know
    slow = start(
        database,
        "forget",
        "video-0003",
        faults=Faults(at={("list", 2): Fault.SLOW}),
        pause_at=("store_fault", 1),
        lease_seconds=LEASE_SECONDS,
    )
    await slow.paused()
    await lose(database, lock)
    await execute(
        database,
        "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
        "SELECT 'doomed-' || n, 'A title', 'DONE', true, true, now() - interval '30 days' "
        "FROM generate_series(1, 20) n",
    )
    await Janitor(database, vault).run()
    made = list(vault.store.list("videos"))
    assert made
    slow.resume()
    assert await slow.code() == LEASE_LOST
    assert list(vault.store.list("videos")) == made
