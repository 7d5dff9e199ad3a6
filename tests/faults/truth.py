"""What was written, what of it was acknowledged, and whether what is shown agrees with that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.db import Database
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import Vault
from tests.support.samples import Counters, Key, as_written
from tests.support.sql import fetch

#: Newest version of each sample that must be shown, or a newer one.
Floor = dict[Key, int]


class Truth:
    """Every version of every sample ever written, in order, and the newest one that is known to count.

    A version is noted before it is written and acknowledged afterwards; in between it may be shown or not.
    What was shown once must not give way to something older. Videos that are ``leaving`` are shown with all
    of their samples or with none, and once they are ``gone`` they stay so.
    """

    def __init__(self) -> None:
        self.versions: dict[Key, list[Counters]] = {}
        self.floor: Floor = {}
        self.leaving: set[str] = set()
        self.gone: set[str] = set()

    def attempt(self, rows: Iterable[Sample]) -> dict[Key, int]:
        """Note what is about to be written; gives the version of each sample."""
        written = {}
        for key, values in as_written(rows).items():
            versions = self.versions.setdefault(key, [])
            versions.append(values)
            written[key] = len(versions) - 1
        return written

    def acknowledge(self, written: dict[Key, int]) -> None:
        """These versions count from now on, unless newer ones do already."""
        for key, version in written.items():
            self.floor[key] = max(version, self.floor.get(key, 0))

    def forget(self, video_id: str) -> None:
        """From now on the video may leave."""
        self.leaving.add(video_id)

    def judge(self, shown: dict[Key, Counters], floor: Floor, *, settled: bool) -> None:
        """Compare what was shown with what had to be shown since ``floor`` was taken.

        With ``settled`` nothing was being written, and the newest version must be shown.
        """
        there = {video_id for video_id, _ in shown}
        assert not there & self.gone, f"{there & self.gone} came back"
        self.gone |= self.leaving & {video_id for video_id, _ in floor} - there
        lost = {key for key in floor.keys() - shown.keys() if key[0] not in self.gone}
        assert not lost, f"{len(lost)} acknowledged samples are not shown: {sorted(lost)[:3]}"
        for key, values in shown.items():
            versions = self.versions.get(key)
            assert versions is not None, f"{key} was never written"
            oldest = len(versions) - 1 if settled else floor.get(key, 0)
            found = [at for at in range(oldest, len(versions)) if versions[at] == values]
            assert found, f"{key} shows {values}, must be one of {versions[oldest:]} of {versions}"
            self.floor[key] = max(found[0], self.floor.get(key, 0))

    def newest(self) -> dict[Key, Counters]:
        """Every sample with the version that must be shown when nothing is being written."""
        return {
            key: versions[-1] for key, versions in self.versions.items() if key[0] not in self.gone
        }


async def shown_by_reader(database: Database, vault: Vault) -> dict[Key, Counters]:
    """What the reader shows; fails if it shows a sample twice."""
    shown: dict[Key, Counters] = {}
    rows = 0
    async for batch in StatsReader(database, vault).scan():
        rows += batch.num_rows
        columns = [batch.column(name).to_pylist() for name in batch.schema.names]
        shown |= {
            (video, moment): tuple(rest) for video, moment, *rest in zip(*columns, strict=True)
        }
    assert rows == len(shown), f"{rows - len(shown)} samples are shown twice"
    return shown


async def in_tables(database: Database) -> set[Key]:
    """The samples in PostgreSQL: attached partitions and whatever tables were sealed."""
    tables = await fetch(
        database,
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition "
        "AND (relname = 'video_stats_log' OR relname LIKE 'video\\_stats\\_log\\_sealed%')",
    )
    keys: set[Key] = set()
    for table in tables:
        rows = await fetch(database, f'SELECT video_id, timestamp FROM "{table["relname"]}"')
        keys |= {(row["video_id"], row["timestamp"]) for row in rows}
    return keys


def in_files(folder: Path, *, damaged: bool = False) -> set[Key]:
    """The samples that a program finds which reads the folder only.

    Files that cannot be read fail, unless they may be ``damaged``.
    """
    return in_contents((path.read_bytes() for path in folder.rglob("*.parquet")), damaged=damaged)


def in_contents(files: Iterable[bytes], *, damaged: bool = False) -> set[Key]:
    """The same of Parquet files in memory."""
    keys: set[Key] = set()
    for content in files:
        try:
            source = pa.BufferReader(content)
            with pq.ParquetFile(source, page_checksum_verification=True) as file:
                table = file.read(columns=["video_id", "timestamp"])
        except (pa.ArrowException, OSError):
            if damaged:
                continue
            raise
        keys |= set(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    return keys
