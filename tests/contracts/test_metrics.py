"""What every vault promises of appended samples, whatever holds its objects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from atlas.tables.parquet import METRICS_SCHEMA, STATS_SCHEMA
from atlas.vault import Vault


def row(video_id: str = "V1", minute: int = 0, **values: object) -> dict[str, object]:
    moment = datetime(2026, 1, 15, 10, minute, tzinfo=UTC)
    return {"video_id": video_id, "timestamp": moment, "views": 1, "likes": 2, **values}


def metrics_tables(vault: Vault) -> pa.Table:
    tables = [
        pq.read_table(found)
        for key in vault.list_files("metrics")
        if (found := vault.fetch_binary(key)) is not None
    ]
    return pa.concat_tables(tables) if tables else METRICS_SCHEMA.empty_table()


def test_appended_rows_are_filed_by_their_own_hour(vault: Vault) -> None:
    assert vault.append_metrics(
        [row("V1", 5), row("V2", 6), row("V1", 5, timestamp="2026-01-15T23:59:59-02:00")]
    )
    folders = [key.rsplit("/", 1)[0] for key in vault.list_files("metrics")]
    assert folders == ["metrics/date=2026-01-15/hour=10", "metrics/date=2026-01-16/hour=01"]
    table = metrics_tables(vault)
    assert table.schema.equals(METRICS_SCHEMA)
    assert table.num_rows == 3
    assert len(set(table["seq"].to_pylist())) == 1


def test_appending_nothing_does_nothing(vault: Vault) -> None:
    assert vault.append_metrics([]) == 0
    assert vault.append_metrics(iter(())) == 0
    assert vault.list_files() == []


def test_a_repeated_append_adds_nothing_even_after_compaction(vault: Vault) -> None:
    rows = [row("V1"), row("V2", 1)]
    assert vault.append_metrics(rows) == 1
    assert vault.append_metrics(list(reversed(rows))) == 0
    keys = vault.list_files("metrics")
    assert len(keys) == 1
    vault.store.delete(keys)
    assert vault.append_metrics(rows) == 0
    assert vault.list_files("metrics") == []


def test_appending_does_not_read_and_every_writer_keeps_its_rows(vault: Vault) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: vault.append_metrics([row(f"V{n}", views=n)]), range(24)))
    table = metrics_tables(vault)
    assert sorted(table["video_id"].to_pylist()) == sorted(f"V{n}" for n in range(24))
    assert vault.pending().count == 0


def test_a_folder_of_tables_is_read_as_it_is(vault: Vault, tmp_path: Path) -> None:
    """By a program that knows hive folders and nothing of Atlas."""
    vault.append_metrics([row("V1", 1), row("V2", 2)])
    vault.append_metrics(
        [row("V1", 3, timestamp="2026-01-16T05:00:00Z", published_at="2026-01-01T00:00:00Z")]
    )
    vault.store.put_bytes("metrics/_notes/readme.parquet", b"not data")
    for key in vault.list_files("metrics"):
        copy = tmp_path / "folder" / key
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(vault.store.get_bytes(key) or b"")
    folder = ds.dataset(
        "metrics",
        partitioning="hive",
        format="parquet",
        filesystem=pafs.SubTreeFileSystem(str(tmp_path / "folder"), pafs.LocalFileSystem()),
    )
    table = folder.to_table()
    assert table.num_rows == 3
    assert set(STATS_SCHEMA.names) | {"published_at", "date", "hour"} == set(table.column_names)
    assert {str(day) for day in table["date"].to_pylist()} == {"2026-01-15", "2026-01-16"}
