"""Random schedules of kills and failures of the service itself, on Google's and the Hub's test servers.

The promises are those of `test_random_schedules`. ``ATLAS_CHAOS=N`` runs a tenth of N schedules on each;
``ATLAS_CHAOS_SEED=17`` replays one.
"""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.asyn
import pytest

import atlas.archive.fencing.lock
from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.vault import Vault
from tests.faults.load import Reader, Writer
from tests.faults.ordeal import LEASE_SECONDS, Ordeal, Site
from tests.faults.schedule import STEPS, Failure, Illness, draw_remote
from tests.faults.truth import Truth, in_contents, in_tables, shown_by_reader
from tests.support.children.archive_child import KILLED, RETENTION, Child
from tests.support.faulty_store import Faults
from tests.support.impatience import no_pauses
from tests.support.places import Place
from tests.support.samples import samples
from tests.support.servers import gcs_proxy, hub_server
from tests.support.servers.cluster import Cluster
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply
from tests.support.servers.hub_server import Hub
from tests.support.sql import scalar

SEEDS = (
    [int(os.environ["ATLAS_CHAOS_SEED"])]
    if "ATLAS_CHAOS_SEED" in os.environ
    else range(max(3, int(os.environ.get("ATLAS_CHAOS", "30")) // 10))
)
PREFIX = "run"

# the Hub's client itself passes ``data=`` to its HTTP library, which wants ``content=``
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


class Remote(Site):
    """A vault on a server of this process."""

    @property
    def patience(self) -> float | None:
        # of a request without a byte; and of a whole call
        return 0.3 if self.place.provider == "gcs" else 1.5

    def __init__(self, place: Place, server: Gcs | Hub) -> None:
        super().__init__(place)
        self.server = server
        self._file_system: Any = None
        self._well = threading.Event()

    def vault(self, faults: Faults | None = None) -> Vault:
        vault = super().vault(faults)
        store: Any = vault.store
        if self.place.provider == "gcs":
            # one client: each keeps connections open
            self._file_system = self._file_system or store.fs
            store.fs = self._file_system
        return vault

    def close(self) -> None:
        """End what hangs, and close what the client keeps open."""
        self.recover()
        if self._file_system is not None and self._file_system.session is not None:
            fsspec.asyn.sync(self._file_system.loop, self._file_system.session.close)

    def contents(self) -> dict[str, bytes]:
        if isinstance(self.server, Hub):
            files = dict(self.server.files)
        else:
            files = {name: self.server.content(name) or b"" for name in self.server.names(PREFIX)}
        return {
            name.removeprefix(f"{PREFIX}/"): content
            for name, content in files.items()
            if name.startswith(f"{PREFIX}/") and name.endswith(".parquet")
        }

    def fall_ill(self, illness: Illness, victim: Child) -> None:
        dice, requests, server = random.Random(illness.seed), 0, self.server

        def trouble(name: str) -> Reply | None:
            nonlocal requests
            requests += 1
            if illness.kill_at is not None:
                number, done = illness.kill_at
                if requests != number:
                    return None
                victim.kill()
                return server.lost if done else Reply(cut=True)
            if dice.random() >= illness.rate:
                return None
            return self._failure(dice.choice(illness.kinds), name)

        self._well.clear()
        server.trouble = trouble

    def _failure(self, kind: Failure, name: str) -> Reply | None:
        match kind:
            case Failure.BUSY | Failure.BROKEN:
                return refusal(int(kind))
            case Failure.LIMITED:
                return refusal(429, retry_after="0")
            case Failure.LOST:
                return self.server.lost
            case Failure.OVERTAKEN if isinstance(self.server, Hub) and name == "commit":
                self.server.commit({**self.server.files, f"other/{uuid.uuid4().hex}": b""})
                return None
            case Failure.OVERTAKEN:
                return None
            case Failure.HANG:
                return Reply(until=self._well)
        return Reply(cut=True)

    def recover(self) -> None:
        self.server.trouble = lambda name: None
        self._well.set()


@pytest.fixture(params=["gcs", "huggingface"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    """An empty vault on a server, whose listings come by pages of a few."""
    running = gcs_proxy.running if request.param == "gcs" else hub_server.running
    with running() as server, no_pauses():
        server.page = 7
        if isinstance(server, Hub):
            server.commits_an_hour = 10**6  # that limit has tests of its own
        site = Remote(Place(request.param, server.url, tmp_path / "home", PREFIX), server)
        yield site
        site.close()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_schedule_on_a_service_that_fails_loses_and_doubles_nothing(
    seed: int,
    site: Remote,
    cluster: Cluster,
    mortal_database: Database,
    start: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = draw_remote(seed)
    if schedule.pooled:
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        monkeypatch.setattr(atlas.archive.fencing.lock, "LEASE_SECONDS", LEASE_SECONDS)
        reset_settings()
    await Ordeal(schedule, cluster, mortal_database, start, site).undergo()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_this_step_loses_and_doubles_nothing_on_a_service(
    step: str, site: Remote, database: Database, start: Any
) -> None:
    vault, truth = site.vault(), Truth()
    writer = Writer(database, vault, truth, seed=STEPS.index(step))
    await writer.write(samples(times=12))
    reader = Reader(database, vault, truth)
    async with reader.at_work(), writer.at_work(batches=4):
        assert (
            await start(database, "archive", kill_at=(step, 1), place=site.place).code() == KILLED
        )
    assert await shown_by_reader(database, vault) == truth.newest()
    await Archiver(database, vault).run(RETENTION)
    assert await shown_by_reader(database, vault) == truth.newest()
    archived = in_contents(site.contents().values())
    hot = await in_tables(database)
    assert archived | hot == truth.versions.keys()
    assert not archived & hot
    unfinished = "SELECT count(*) FROM archive_files WHERE state <> 'live' OR relation IS NOT NULL"
    assert await scalar(database, unfinished) == 0
    live = await scalar(database, "SELECT count(*) FROM archive_files")
    assert len(list(vault.store.list("video_stats"))) == live
