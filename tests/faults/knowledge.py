"""What is known of a history that goes back, is copied and lost; and what must hold of it at every moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from atlas.db import Database
from atlas.repositories.ledger.digests import digest
from atlas.types import Dataset, Sample
from atlas.vault.owners import owner_of
from tests.faults.truth import shown_by_reader
from tests.support.histories import History
from tests.support.samples import OLD, Counters, Key
from tests.support.sql import fetch, scalar

#: Few ids, so that samples meet.
IDS = [f"video-{number}" for number in range(5)]


@dataclass
class Knowledge:
    """Every row that was ever seen, and what is in PostgreSQL.

    ``cold`` has every row of every whole file that was ever seen in the vault, by sample and ``seq``, and
    whether it lay in a slice; ``hot`` what was written to the database of now and is in no file.
    """

    history: History
    cold: dict[Key, dict[int, Counters]] = field(default_factory=dict)
    slices: dict[Key, set[int]] = field(default_factory=dict)
    rows_of: dict[str, set[tuple[Key, int]]] = field(default_factory=dict)
    removed: dict[str, set[str]] = field(default_factory=dict)
    hot: dict[Key, Counters] = field(default_factory=dict)

    async def check(self) -> None:
        """Every sample once, with the right counters."""
        self.observe()
        assert not self.at_odds
        database = self.history.database
        shown = await shown_by_reader(database, self.history.vault)
        hot = await hot_rows(database)
        aside = await self.aside()
        gone = await self.barred()
        expected: dict[Key, Counters] = {}
        for key, found in self.cold.items():
            seqs = [seq for seq in found if (key, seq) not in aside]
            if seqs:
                expected[key] = found[max(seqs)]
        for key, values in self.hot.items():
            cold = self.cold.get(key, {}).values()
            assert (
                key[0] in gone or hot.get(key) == values or values in cold
            ), f"{name_of_sample(*key)} lost"
        self.hot = hot
        expected = {key: values for key, values in (expected | hot).items() if key[0] not in gone}
        assert by_name(shown) == by_name(expected)
        await self._check_removed()

    async def _check_removed(self) -> None:
        live = await fetch(
            self.history.database,
            "SELECT object_key FROM archive_files WHERE dataset = 'videos' AND state = 'live'",
        )
        rows = await fetch(self.history.database, "SELECT id FROM videos")
        left = {row["id"] for row in rows}
        archived = set[str]().union(*(self.removed.get(one["object_key"], set()) for one in live))
        assert not left & archived, f"rows of {left & archived} are archived and still there"
        kept = left | archived
        ever = set[str]().union(*self.removed.values())
        assert ever <= kept, f"rows of {ever - kept} are gone"

    def observe(self) -> None:
        store = self.history.vault.store
        for folder in Dataset:
            for info in store.list(folder):
                if info.key not in self.rows_of and info.key.endswith(".parquet"):
                    self._look(info.key, store.get_bytes(info.key) or b"")

    def _look(self, key: str, content: bytes) -> None:
        try:
            with pq.ParquetFile(pa.BufferReader(content)) as file:
                table, footer = file.read(), file.metadata.metadata or {}
        except (pa.ArrowException, OSError):
            return
        if key.startswith("videos/"):
            self.rows_of[key] = set()
            self.removed[key] = set(table["id"].to_pylist())
            return
        names = ("video_id", "timestamp", "seq", "views", "likes", "comment_count")
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        self.rows_of[key] = set()
        for video_id, moment, seq, *counters in rows:
            sample = (video_id, moment)
            found = self.cold.setdefault(sample, {})
            assert found.setdefault(seq, tuple(counters)) == tuple(counters)
            self.rows_of[key].add((sample, seq))
            if key.startswith("video_stats/") and b"atlas.merged" not in footer:
                self.slices.setdefault(sample, set()).add(seq)

    async def aside(self) -> set[tuple[Key, int]]:
        """Rows that lie only in what a person has set aside."""
        rows = await fetch(self.history.database, "SELECT object_key, state FROM archive_files")
        aside = {row["object_key"] for row in rows if row["state"] == "aside"}
        if not aside:
            return set()
        others = set[tuple[Key, int]]().union(
            *(found for key, found in self.rows_of.items() if key not in aside)
        )
        return set[tuple[Key, int]]().union(*(self.rows_of[key] for key in aside)) - others

    async def barred(self) -> set[str]:
        """Ids that were forgotten, by this database or by what the vault says."""
        rows = await fetch(
            self.history.database,
            "SELECT video_id FROM video_tombstones WHERE reason = 'forgotten'",
        )
        owner = owner_of(self.history.vault.store)
        recorded = "".join(
            (self.history.vault.store.get_bytes(info.key) or b"").decode()
            for info in self.history.vault.store.list(f"_atlas/erasures/{owner}")
        )
        by_hash = {one for one in IDS if owner and digest(owner, one).hex() in recorded}
        return {row["video_id"] for row in rows} | by_hash

    async def highest(self) -> int:
        return int(
            await scalar(
                self.history.database,
                "SELECT coalesce((SELECT adopting_from FROM archive_control), max(seq), 0) "
                "FROM archive_files WHERE dataset = 'video_stats'",
            )
        )


async def hot_rows(database: Database) -> dict[Key, Counters]:
    """What PostgreSQL has of its own: written rows and sealed tables."""
    sealed = await fetch(database, "SELECT relation FROM archive_files WHERE relation IS NOT NULL")
    columns = "video_id, timestamp, views, likes, comment_count"
    hot: dict[Key, Counters] = {}
    queries = [f'SELECT {columns} FROM "{row["relation"]}"' for row in sealed]
    for query in (*queries, f"SELECT {columns} FROM video_stats_log WHERE seq IS NULL"):
        for row in await fetch(database, query):
            key = (row["video_id"], row["timestamp"])
            hot[key] = (row["views"], row["likes"], row["comment_count"])
    return hot


def key_of(row: Sample) -> Key:
    return row.video_id, row.timestamp


def counters_of(row: Sample) -> Counters:
    return row.views, row.likes, row.comment_count


def name_of_sample(video_id: str, moment: datetime) -> str:
    return f"{video_id}@{(moment - OLD) // timedelta(hours=1)}"


def by_name(rows: dict[Key, Counters]) -> dict[str, int | None]:
    return {name_of_sample(*key): values[0] for key, values in sorted(rows.items())}
