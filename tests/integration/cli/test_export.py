"""``atlas export``, ``atlas history --plot`` and single objects, as people type them."""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from atlas.archive import Archiver
from atlas.cli.plotting import check_plot
from atlas.db import Database
from atlas.errors import ConfigurationError
from atlas.exporting import export_samples
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.cli import Run
from tests.support.samples import OLD, as_written, samples

LARGEST = 2**63 - 1
ROWS = [*samples(times=8), Sample("-large", OLD, views=LARGEST)]


@pytest.fixture
async def vault(database: Database, tmp_path: Path) -> LocalVault:
    """Eight hours in the vault of the command line, and a sample of yesterday that is hot."""
    vault = LocalVault(tmp_path / "home/vault")
    await record_samples(database, ROWS)
    await Archiver(database, vault).run(timedelta(days=7))
    await record_samples(database, [Sample("fresh", OLD + timedelta(days=19), likes=2)])
    return vault


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an exported file; times as ISO text."""
    match path.suffix:
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
        case ".csv":
            kinds = {n: pa.int64() for n in ("views", "likes", "comment_count")}
            options = pa.csv.ConvertOptions(column_types=kinds)
            rows = pa.csv.read_csv(path, convert_options=options).to_pylist()
        case _:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if not isinstance(row["timestamp"], str):
            row["timestamp"] = (
                row["timestamp"].isoformat(timespec="microseconds").replace("+00:00", "Z")
            )
    return rows


async def test_every_format_holds_every_sample_once_and_exactly(
    atlas: Run, vault: LocalVault, tmp_path: Path
) -> None:
    shown = as_written([*ROWS, Sample("fresh", OLD + timedelta(days=19), likes=2)])
    for name in ("all.parquet", "all.csv", "all.jsonl"):
        done = atlas("export", name, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["rows"], report["path"]) == (162, name)
        assert report["bytes"] == (tmp_path / name).stat().st_size
        rows = read(tmp_path / name)
        assert len(rows) == len(shown)
        assert {
            (row["video_id"], row["timestamp"]): (row["views"], row["likes"], row["comment_count"])
            for row in rows
        } == {
            (one, at.isoformat(timespec="microseconds").replace("+00:00", "Z")): counters
            for (one, at), counters in shown.items()
        }
    assert files_in(tmp_path) == {"all.parquet", "all.csv", "all.jsonl"}


async def test_ids_columns_and_spans_are_chosen_and_the_vault_alone_is_enough(
    atlas: Run, vault: LocalVault, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("video-0003\n\n-large\n")
    done = atlas(
        *("export", "some.jsonl", "--ids=video-0001,video-0002", "--ids-file", "ids.txt", "--cold"),
        *("--columns", "views,video_id", "--until", (OLD + timedelta(hours=2)).isoformat()),
        DATABASE_URL="postgresql://127.0.0.1:1/none",
    )
    assert done.returncode == 0, done.stderr
    assert "7 samples" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [["views", "video_id"]] * 7
    assert {row["video_id"] for row in rows} == {"video-0001", "video-0002", "video-0003", "-large"}
    done = atlas("export", "none.csv", "--since", "yesterday")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "none.csv").read_text().splitlines()[1:] in (
        [],  # just after midnight
        [f'"fresh","{(OLD + timedelta(days=19)):%Y-%m-%dT%H:%M:%S.%fZ}",,2,'],
    )


async def test_no_file_is_replaced_unasked_and_none_is_left_half_written(
    atlas: Run, vault: LocalVault, tmp_path: Path
) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    for arguments, told in (
        (["mine.csv"], "--force"),
        (["a.xlsx"], ".parquet"),
        (["nowhere/a.csv"], "no folder"),
        (["a.csv", "--since", "soon"], "yesterday"),
    ):
        done = atlas("export", *arguments)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    key = next(vault.store.list("video_stats")).key
    (tmp_path / "home/vault" / key).write_bytes(b"damaged")
    assert atlas("export", "mine.csv", "--force").returncode == 1
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert files_in(tmp_path) == {"mine.csv"}


async def test_a_history_is_drawn(atlas: Run, vault: LocalVault, tmp_path: Path) -> None:
    done = atlas("history", "video-0003", "--plot", "course.png", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plot"] == "course.png"
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")
    done = atlas(
        "history", "--cold", "--plot", "course.svg", "--since", "2020-01-01", "--", "-large"
    )
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "course.svg").read_text()
    assert "<svg" in drawn
    done = atlas("history", "video-0003", "--plot", "course.txt")
    assert (done.returncode, ".png" in done.stderr) == (2, True)


def test_a_picture_without_matplotlib_is_told_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_plot(Path("a.PNG"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=re.escape("pleiades-atlas[plot]")):
        check_plot(Path("a.png"))


async def test_single_objects_are_fetched_and_shown(
    atlas: Run, vault: LocalVault, tmp_path: Path
) -> None:
    vault.store_transcript("video-0003", {"text": "hello"})
    key = "transcripts/vi/video-0003.json"
    assert atlas("vault", "cat", key).stdout == '{"text":"hello"}'
    assert atlas("vault", "get", key).returncode == 0
    assert (tmp_path / "video-0003.json").read_text() == '{"text":"hello"}'
    done = atlas("vault", "get", vault.store.uri(key))
    assert (done.returncode, "--force" in done.stderr) == (2, True)
    done = atlas("vault", "get", key, "-o", "t.json", "--json")
    assert json.loads(done.stdout) == {"key": key, "path": "t.json", "bytes": 16}
    assert atlas("vault", "get", key, "-o", "t.json", "--force").returncode == 0
    for command in ("get", "cat"):
        done = atlas("vault", command, "transcripts/none.json")
        assert (done.returncode, "has no" in done.stderr) == (1, True)
    parquet = next(vault.store.list("video_stats")).key
    assert atlas("vault", "get", parquet, "-o", "s.parquet").returncode == 0
    assert pq.read_metadata(tmp_path / "s.parquet").num_rows == 121


@pytest.mark.usefixtures("vault")
async def test_hot_samples_are_read_in_parts_and_written_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = [Sample(f"v{n % 7}", OLD + timedelta(days=19, minutes=n), n) for n in range(1, 300)]
    await record_samples(database, fresh)
    reader = StatsReader(database, LocalVault(tmp_path / "home/vault"))
    whole = await export_samples(reader, tmp_path / "whole.jsonl")
    monkeypatch.setattr("atlas.reading.windows.BYTES", 8192)
    looks = []
    scan = StatsReader.scan

    def watched(self: StatsReader, *arguments: Any) -> Any:
        looks.append(arguments)
        return scan(self, *arguments)

    monkeypatch.setattr(StatsReader, "scan", watched)
    parts = await export_samples(reader, tmp_path / "parts.jsonl")
    assert len(looks) > 2
    assert parts.rows == whole.rows

    def shown(name: str) -> list[tuple[Any, ...]]:
        return sorted(tuple(map(str, row.values())) for row in read(tmp_path / name))

    assert shown("parts.jsonl") == shown("whole.jsonl")
