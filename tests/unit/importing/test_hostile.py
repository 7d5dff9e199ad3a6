"""Files made to hurt: bounded memory, clear errors, and no row lost beside them."""

from __future__ import annotations

import bz2
import gzip
import threading
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import InvalidInput
from atlas.importing.columns.rows import SAMPLES
from atlas.importing.files import sources
from atlas.importing.loading import Buckets
from atlas.importing.videos import Distinct
from tests.support.importing import DAY, ID, OTHER, understand


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
@pytest.mark.parametrize("filling", [b"\n", b"x", b"[", b"\0"])
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: object, filling: bytes
) -> None:
    monkeypatch.setattr(sources, "_FREE", 1 << 18)
    path = tmp_path / "bomb"
    path.write_bytes(pack(b"id,date,views\n" + filling * (3 << 20)))  # type: ignore[operator]  # a compressor
    with pytest.raises(InvalidInput, match="bomb"):
        understand(path)


def test_a_table_of_equal_rows_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FREE", 1 << 20)
    rows = [f"{n:011d},2026-01-15,{n % 7}" for n in range(30_000)]
    path = tmp_path / "export"
    path.write_bytes(gzip.compress("\n".join(["id,date,views", *rows]).encode()))
    assert understand(path).report.good == 30_000


@pytest.mark.parametrize("filling", ["\n", "\r\n", "x", " ", '"', ",", "é"])
def test_floods_cost_bounded_memory_and_no_row(tmp_path: Path, filling: str) -> None:
    path = tmp_path / "flood"
    first, last = f"{ID},2026-01-15,1", f"{OTHER},2026-01-15,2"
    path.write_text(
        f"id,date,views\n{first}\n{filling * (3 << 19)}\n{last}\n", encoding="utf-8", newline=""
    )
    tracemalloc.start()
    try:
        found = understand(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert {key[0] for key in found.samples} == {ID, OTHER}
    assert found.report.bad <= 1
    assert peak < 100 << 20


def test_a_value_of_json_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.importing.files.documents.VALUE", 1 << 16)
    path = tmp_path / "export"
    path.write_text('{"id": "' + "x" * (4 << 20))
    with pytest.raises(InvalidInput, match="longer than"):
        understand(path)


def test_control_characters_are_shown_and_never_sent(tmp_path: Path) -> None:
    path = tmp_path / "export"
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    path.write_text(f"id,da{evil}te,views,{evil}\n{ID},2026-01-15,1,x\n{evil},2026-01-15,1,x\n")
    found = understand(path, columns={"timestamp": f"da{evil}te"})
    report = found.report
    shown = repr((report.mapping, report.ignored, report.notes, report.reasons))
    assert report.good == 1
    assert not {*shown, *"".join(report.ignored)} & {*evil} - {*"]0;owned2J"}
    with pytest.raises(InvalidInput) as told:
        understand(path)
    assert "\x1b" not in str(told.value)


def test_ids_are_counted_right_also_where_they_do_not_fit_into_memory(tmp_path: Path) -> None:
    many = Distinct(tmp_path)
    many._MOST = 64
    for start in range(0, 1000, 50):
        many.add(pa.chunked_array([[f"{n:011d}" for n in range(start, start + 100)]]))
    assert many.total() == 1050


def test_samples_of_one_moment_meet_however_many_buckets_there_are(tmp_path: Path) -> None:
    moments = [DAY] * 500
    buckets = Buckets(tmp_path, 1_000_000, moments)
    table = pa.table(
        {
            "video_id": [f"{n % 300:011d}" for n in range(600)],
            "timestamp": pa.array([DAY] * 600, SAMPLES.field("timestamp").type),
            "views": pa.array([*range(300), *[None] * 300], pa.int64()),
            "likes": pa.array(range(600), pa.int64()),
            "comment_count": pa.nulls(600, pa.int64()),
        },
        SAMPLES,
    )
    buckets.add(table.slice(0, 300))
    buckets.add(table.slice(300))
    found = pa.concat_tables(list(buckets)).sort_by("video_id")
    assert found["views"].to_pylist() == list(range(300))
    assert found["likes"].to_pylist() == list(range(300, 600))


def test_an_import_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    from atlas.importing.importer import Job, Options, _Stopped

    path = tmp_path / "export"
    path.write_text(f"id,date,views\n{ID},2026-01-15,1\n")
    told = threading.Event()

    def stop(done: int, total: int | None, what: str) -> None:
        job.stopped = True
        told.set()

    job = Job(tmp_path, [path], Options(report=tmp_path / "r"), DAY.replace(year=2030), stop)
    with pytest.raises(_Stopped):
        job.prepare()
    assert told.is_set()
