"""The archive and small documents on each back end: test servers on loopback beside the local folder.

What a service far away adds is its latency, once a request: the counts of requests tell how often. The
servers are processes of their own, so that they take no time of Atlas's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import text

from atlas.archive import Archiver
from atlas.db import Database
from atlas.repositories.hot.partitions import Partitions
from atlas.vault import Vault
from benchmarks.support import Result, fill_samples, scratch_database, stopwatch
from tests.support.places import Place

#: Seconds that the servers let pass before each answer to a document, as services far away do.
_LATENCY = 0.02
#: Documents of the run that writes one by one: on the Hub each is a commit, of which it takes 128 an hour.
_ONE_BY_ONE = 100


async def measure(
    database: Database, folder: Path, rows: int, documents: int = 10_000
) -> list[Result]:
    # gcsfs hands aiohttp its pieces as bytes; huggingface_hub names an argument as it was named
    warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)
    warnings.filterwarnings("ignore", "Use 'content=<...>'", DeprecationWarning)
    results: list[Result] = []
    here = Place("local", str(folder / "vault"), folder / "home")
    beside, _ = await archive(database, here.vault(), rows)
    for provider in ("gcs", "huggingface"):
        with serving(provider) as service:
            place = Place(provider, service.url, folder / provider, "bench")
            async with scratch_database() as other:
                rate, slices = await archive(other, place.vault(), rows)
            results.append(Result(f"archive to {provider}", rate, "local folder", beside))
            asked = service.counts()
            for unit, number in (("requests", asked.total()), ("commits", asked["commit"])):
                if number:
                    what = f"archive to {provider}"
                    results.append(Result(what, number, "slices", slices, unit, most=True))
            service.be_far()
            results += store(provider, place.vault(), service, documents)
    results += store("local", here.vault(), None, documents)
    return results


async def archive(database: Database, vault: Vault, rows: int) -> tuple[float, int]:
    """Rows a second of one run over a day of samples, and how many slices that were."""
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=10)
    async with database.transaction() as session:
        await Partitions(session).ensure([day + timedelta(hours=6 * n) for n in range(4)], 6)
    await fill_samples(database, rows)
    async with database.transaction(read_only=True) as session:
        count = await session.scalar(text("SELECT count(*) FROM video_stats_log"))
    with stopwatch() as watch:
        report = await Archiver(database, vault).run(timedelta(days=7))
    assert report.rows == count, (report, count)
    return report.rows / watch.seconds, report.slices


def store(provider: str, vault: Vault, service: Service | None, documents: int) -> list[Result]:
    """Small documents by one call, beside one call each; a vault that has been used before."""
    few = min(_ONE_BY_ONE, documents)
    before = service.counts() if service else Counter()
    with stopwatch() as single:
        for number in range(few):
            vault.store_json(f"single/{number % 100:02}/{number}.json", document(number))
    between = service.counts() if service else Counter()
    batch = [(f"batch/{n % 100:02}/{n}.json", document(n)) for n in range(documents)]
    with stopwatch() as whole:
        vault.store_batch(batch)
    assert vault.fetch_json(batch[-1][0]) == batch[-1][1]
    what, beside = f"{documents:,} documents to {provider}", f"one by one ({few} of them)"
    results = [Result(what, documents / whole.seconds, beside, few / single.seconds, "documents/s")]
    if service:
        after = service.counts()
        scale = documents / few
        for unit, asked, alone in (
            ("requests", (after - between).total(), (between - before).total() * scale),
            ("commits", (after - between)["commit"], (between - before)["commit"] * scale),
        ):
            if alone:
                results.append(Result(what, asked, f"{beside}, scaled", alone, unit, most=True))
    return results


def document(number: int) -> dict[str, Any]:
    return {"video_id": f"v{number:010}", "title": f"Title {number}", "tags": ["a", "b", number]}


@dataclass(frozen=True)
class Service:
    """A test server in a process of its own."""

    url: str
    _line: Connection

    def counts(self) -> Counter[str]:
        """The requests so far, by name."""
        self._line.send("counts")
        return Counter(self._line.recv())

    def be_far(self) -> None:
        """Answer late from now on."""
        self._line.send("late")


@contextlib.contextmanager
def serving(provider: str) -> Iterator[Service]:
    """A running server of that provider."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(provider, theirs))
    process.start()
    try:
        yield Service(ours.recv(), ours)
    finally:
        ours.send("end")
        process.join()


def _serve(provider: str, line: Connection) -> None:
    from tests.support.servers import gcs_proxy, hub_server

    running = gcs_proxy.running if provider == "gcs" else hub_server.running
    with running() as server:
        if isinstance(server, hub_server.Hub):
            server.commits_an_hour = 10**9  # what is measured is time; the count tells the rest
        line.send(server.url)
        while (asked := line.recv()) != "end":
            if asked == "counts":
                line.send(dict(server.counts))
            else:
                server.loopback.latency = _LATENCY
    os._exit(0)  # clients that are still connected are not waited for
