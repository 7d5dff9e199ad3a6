"""Sorting, merging and fingerprinting of samples, against plain Python."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas.archive.export import samples
from atlas.tables.fingerprint import Fingerprint, rows_fingerprint
from atlas.tables.parquet import STATS_SCHEMA
from atlas.tables.sorting import compacted, merge_sorted, sort_samples

NAMES = ("video_id", "timestamp", "views", "likes", "comment_count")
SCHEMA = pa.schema(
    [("video_id", pa.string()), ("timestamp", pa.timestamp("us", "UTC"))]
    + [(name, pa.int64()) for name in NAMES[2:]]
)
START = datetime(2026, 1, 15, tzinfo=UTC)

counter = st.none() | st.integers(0, 2**63 - 1)
row = st.tuples(
    # ids of several lengths: hashing goes by words of eight bytes
    st.text("aB9_-", min_size=1, max_size=3)
    | st.sampled_from(["a" * n for n in (7, 8, 9, 17, 64)]),
    st.integers(0, 5).map(lambda minutes: START + timedelta(minutes=minutes)),
    counter,
    counter,
    counter,
)
rows = st.lists(row, max_size=40, unique_by=lambda one: one[:2])


def table(values: list[Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(NAMES, one, strict=True)) for one in values], SCHEMA)


def encoded(source: pa.Table) -> pa.Table:
    return source.set_column(0, "video_id", source["video_id"].dictionary_encode())


def pieces(source: pa.Table, size: int) -> list[pa.Table]:
    return [source.slice(start, size) for start in range(0, source.num_rows, size)]


@given(rows)
def test_sorting_is_by_bytes_of_the_id_and_then_by_time(values: list[Any]) -> None:
    assert (
        sort_samples(table(values)).to_pylist()
        == table(sorted(values, key=lambda one: (one[0].encode(), one[1]))).to_pylist()
    )


@given(st.lists(rows, min_size=1, max_size=4))
def test_ids_that_come_encoded_by_several_dictionaries_leave_in_order_by_one(
    sources: list[list[Any]],
) -> None:
    parts = [encoded(table(values)) for values in sources]
    found = sort_samples(pa.concat_tables(parts))
    flat = [one for values in sources for one in values]
    assert [tuple(one.values())[:2] for one in found.to_pylist()] == sorted(one[:2] for one in flat)
    for start in range(found.num_rows):
        part = compacted(found.slice(start, 3))
        assert part.to_pylist() == found.slice(start, 3).to_pylist()
        if len(flat) > 1:
            ids = set(part["video_id"].to_pylist())
            assert part["video_id"].chunk(0).dictionary.to_pylist() == sorted(ids)


def test_more_ids_than_sixteen_bits_count_are_in_order() -> None:
    ids = [f"v{n * 7919 % 70_001:05d}" for n in range(70_001)]
    found = sort_samples(table([(one, START, 1, 2, 3) for one in ids]))
    assert found["video_id"].to_pylist() == sorted(ids)


def test_times_break_ties_of_ids_and_columns_those_of_times() -> None:
    values = [
        (f"v{n % 3}", START + timedelta(minutes=n * 7 % 5), n * 11 % 17, None, n) for n in range(90)
    ]
    found = sort_samples(table(values), tie_breaks=("views", "comment_count"))
    assert [tuple(one.values()) for one in found.to_pylist()] == sorted(
        values, key=lambda one: (*one[:3], one[4])
    )


@given(st.lists(rows, max_size=5), st.integers(1, 4))
@settings(max_examples=200)
def test_merging_keeps_every_row_in_order_and_the_winner_of_each_key(
    sources: list[list[Any]], size: int
) -> None:
    streams, winners = [], {}
    for number, values in enumerate(sources):
        source = sort_samples(table(values))
        priority = pa.repeat(pa.scalar(number, pa.int64()), source.num_rows)
        streams.append(pieces(source.append_column("priority", priority), size))
        winners |= {one[:2]: (*one, number) for one in values}
    merged = list(merge_sorted(streams, winner="priority"))
    found = [tuple(one.values()) for part in merged for one in part.to_pylist()]
    assert found == [winners[key] for key in sorted(winners)]


@given(rows, rows)
def test_the_fingerprint_is_equal_exactly_for_the_same_rows_in_any_order(
    values: list[Any], others: list[Any]
) -> None:
    def fingerprint(given: list[Any], size: int) -> str:
        taken = Fingerprint(NAMES)
        for piece in pieces(table(given), size):
            for batch in piece.to_batches():
                taken.update(batch)
        return taken.hex

    assert fingerprint(values, 3) == fingerprint(values[::-1], 7)
    same = sorted(values, key=repr) == sorted(others, key=repr)
    assert (fingerprint(values, 9) == fingerprint(others, 9)) == same


def test_the_fingerprint_tells_null_from_zero_doubling_and_swapped_columns() -> None:
    one = ("a", START, 1, 2, 3)
    variants = [[one], [one, one], [("a", START, 2, 1, 3)], [("a", START, None, 2, 3)]]
    variants += [[("a", START, 0, 2, 3)], [("a\0", START, 1, 2, 3)], []]
    found = set()
    for variant in variants:
        taken = Fingerprint(NAMES)
        for batch in table(variant).to_batches():
            taken.update(batch)
        found.add(taken.hex)
    assert len(found) == len(variants)
    assert rows_fingerprint(table([one])) != rows_fingerprint(table([one, one]))


def test_rows_of_an_id_with_numbers_and_days_have_a_fingerprint_of_their_own() -> None:
    def days(*rows: tuple[str, int, date | None]) -> pa.Table:
        schema = pa.schema([("id", pa.string()), ("number", pa.int64()), ("day", pa.date32())])
        return pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in rows], schema
        )

    one, two = ("a", 1, START.date()), ("b", 2, None)
    variants = [[one, two], [one], [one, one], [("a", 1, None)], [("b", 1, START.date())]]
    variants += [[("a", 1, date(1970, 1, 1))], [("a", 2, START.date())], []]
    assert len({rows_fingerprint(days(*rows)) for rows in variants}) == len(variants)
    assert rows_fingerprint(days(one, two)) == rows_fingerprint(days(two, one))


def test_more_rows_than_fit_in_memory_are_sorted_in_runs_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "RUN_ROWS", 1_000)
    monkeypatch.setattr(samples, "ROW_GROUP_ROWS", 64)
    values = [
        (f"v{n * 7919 % 97:02d}", START + timedelta(seconds=n), n, None, n % 5)
        for n in range(5_500)
    ]
    batches = [batch for piece in pieces(table(values), 300) for batch in piece.to_batches()]
    path = tmp_path / "slice.parquet"
    facts = samples.export_samples(batches, path, seq=7, metadata={"atlas.seq": "7"})
    with pq.ParquetFile(path) as file:
        found = file.read()
        # how the writer held the ids does not show
        assert found.schema.equals(STATS_SCHEMA)
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert [tuple(one.values())[:-1] for one in found.to_pylist()] == sorted(values)
    assert max(groups) <= 64
    assert sum(groups) == facts.row_count == len(values)
    assert (facts.min_video_id, facts.max_video_id) == ("v00", "v96")
    assert (facts.min_timestamp, facts.max_timestamp) == (values[0][1], values[-1][1])
    assert [left.name for left in tmp_path.iterdir()] == ["slice.parquet"]
