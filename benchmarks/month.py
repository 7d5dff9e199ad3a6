"""What a month asks of a service: days of a million samples, archived every hour, compacted every night."""

from __future__ import annotations

import warnings
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from atlas.archive import Archiver
from atlas.db import Database
from atlas.janitor import Janitor
from atlas.repositories.hot.partitions import Partitions
from benchmarks.support import Result, fill_samples, scratch_database
from benchmarks.vaults import serving
from tests.support.places import Place

#: The days that are played; a month is as many times the mean day.
_DAYS, _MONTH = 3, 30
#: What Google charges for as class A; the other requests are class B, but deleting is free.
_CLASS_A = ("upload", "start", "list")


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """Requests and bytes of a month, by kind, beside its samples; ``rows`` is a day's."""
    warnings.filterwarnings("ignore", "Sending a large body", ResourceWarning)
    warnings.filterwarnings("ignore", "Use 'content=<...>'", DeprecationWarning)
    results: list[Result] = []
    for provider in ("gcs", "huggingface"):
        with serving(provider) as service:
            place = Place(provider, service.url, folder / provider, "bench")
            async with scratch_database() as other:
                samples, size = await _play(other, place, rows)
            asked = service.counts()
        months = _MONTH / _DAYS
        what = f"a month on {provider}"
        for name, number in [*asked.most_common(), ("bytes written", size)]:
            results.append(
                Result(what, number * months, "samples", samples * months, name, most=True)
            )
        results.append(_limit(provider, asked))
    return results


async def _play(database: Database, place: Place, rows: int) -> tuple[int, int]:
    """A run of the archiver each hour, the janitor, compaction and clean-up each night."""
    vault = place.vault()
    archiver = Archiver(database, vault)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    samples = size = 0
    for days_ago in range(20, 20 - _DAYS, -1):
        day = midnight - timedelta(days=days_ago)
        async with database.transaction() as session:
            await Partitions(session).ensure([day + timedelta(hours=6 * n) for n in range(4)], 6)
        await fill_samples(database, rows, days_ago=days_ago)
        for hour in range(1, 25):
            report = await archiver.run(day + timedelta(hours=hour))
            samples, size = samples + report.rows, size + report.bytes
        await Janitor(database, vault).run()
        size += (await archiver.compact()).bytes_after
        await archiver.collect_garbage(timedelta(0))
    return samples, size


def _limit(provider: str, asked: Counter[str]) -> Result:
    """The dearest hour of a service that limits hours, or the bill of one that charges."""
    if provider == "gcs":
        class_a = sum(asked[name] for name in _CLASS_A)
        return Result("class A on gcs", class_a, "all", asked.total(), "requests", most=True)
    commits = asked["commit"] / (24 * _DAYS)
    return Result("commits an hour", commits, "the Hub's limit", 128, "commits", 0.1, most=True)
