"""Reading cold files: other shapes, damage, and what is remembered of them."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.errors import CorruptObject, VaultError
from atlas.reading.cold import open_cold, read_cold
from atlas.reading.footers import TAIL_BYTES, FooterCache, fetch_footer, footers
from atlas.repositories.hot.snapshot import HOT_SCHEMA, ColdFile, Selection
from atlas.tables import external_sort
from atlas.tables.external_sort import runs_by_id, runs_by_time
from atlas.tables.parquet import STATS_SCHEMA, open_writer
from atlas.types import ObjectStore
from atlas.vault import LocalVault
from tests.support.stores import CountedStore

START = datetime(2026, 1, 15, tzinfo=UTC)
KEY = "video_stats/a.parquet"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ObjectStore]:
    footers.clear()
    yield LocalVault(tmp_path / "vault").store
    footers.clear()


def samples(videos: int = 50, times: int = 24) -> pa.Table:
    """Sorted samples of which pages do not compress away."""
    numbers = random.Random(7)
    return pa.Table.from_pylist(
        [
            {
                "video_id": f"video-{video:04}",
                "timestamp": START + timedelta(hours=time, microseconds=numbers.randrange(999)),
                "views": numbers.randrange(1 << 40),
                "likes": None if video % 5 == 0 else numbers.randrange(1 << 20),
                "comment_count": time,
                "seq": 7,
            }
            for video in range(videos)
            for time in range(times)
        ],
        STATS_SCHEMA,
    )


def put(store: ObjectStore, content: bytes | pa.Table) -> ColdFile:
    """The object and what the ledger knows of it."""
    if isinstance(content, pa.Table):
        target = io.BytesIO()
        pq.write_table(content, target)
        content = target.getvalue()
    store.put_bytes(KEY, content)
    last = START + timedelta(days=2)
    return ColdFile(KEY, store.identity, START, last, None, len(content), in_ledger=True)


def stored(store: ObjectStore, table: pa.Table, group: int = 300) -> tuple[ColdFile, bytes]:
    """The same as Atlas writes it."""
    target = io.BytesIO()
    with open_writer(target, STATS_SCHEMA, {"atlas.format": "1"}) as writer:
        writer.write_table(table, row_group_size=group)
    return put(store, target.getvalue()), target.getvalue()


def read(store: ObjectStore, cold: ColdFile, selection: Selection | None = None) -> pa.Table:
    tables = read_cold(store, cold, selection or Selection())
    return pa.concat_tables([HOT_SCHEMA.empty_table(), *tables]).combine_chunks()


# schemas that drift


def drifted(**columns: Any) -> pa.Table:
    """Two samples, with some columns replaced, added, or with None left out."""
    base = {
        "video_id": pa.array(["a", "b"]),
        "timestamp": pa.array([START, START + timedelta(hours=1)], pa.timestamp("us", "UTC")),
        "views": pa.array([1, None], pa.int64()),
        "likes": pa.array([3, 4], pa.int64()),
        "comment_count": pa.array([5, 6], pa.int64()),
        "seq": pa.array([7, 7], pa.int64()),
    }
    return pa.table({name: one for name, one in (base | columns).items() if one is not None})


EXPECTED = drifted().rename_columns(HOT_SCHEMA.names).cast(HOT_SCHEMA)


def test_a_column_that_came_later_reads_as_typed_nulls_in_older_files(store: ObjectStore) -> None:
    table = read(store, put(store, drifted(likes=None, seq=None)))
    assert table.schema == HOT_SCHEMA
    assert table["likes"].to_pylist() == [None, None]
    assert table["priority"].to_pylist() == [0, 0]
    assert table["comment_count"].to_pylist() == [5, 6]


def test_columns_that_no_reader_knows_are_ignored(store: ObjectStore) -> None:
    extra = pa.array([{"a": [1]}, None])
    assert read(store, put(store, drifted(dislikes=extra))).equals(EXPECTED)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("views", pa.array([1, None], pa.int32())),
        ("views", pa.array([1, None], pa.uint64())),
        ("views", pa.array([1.0, None])),
        ("views", pa.array([Decimal(1), None], pa.decimal128(9, 2))),
        ("video_id", pa.array(["a", "b"], pa.large_string())),
        ("video_id", pa.array(["a", "b"]).dictionary_encode()),
        ("video_id", pa.array([b"a", b"b"])),
        ("timestamp", EXPECTED["timestamp"].cast(pa.timestamp("ms", "UTC"))),
        ("timestamp", EXPECTED["timestamp"].cast(pa.timestamp("ns", "UTC"))),
        ("timestamp", EXPECTED["timestamp"].cast(pa.timestamp("us", "Europe/Berlin"))),
        ("timestamp", EXPECTED["timestamp"].cast(pa.timestamp("us"))),
    ],
    ids=lambda one: str(getattr(one, "type", one)),
)
def test_other_types_are_widened(store: ObjectStore, column: str, values: Any) -> None:
    cold = put(store, drifted(**{column: values}))
    assert read(store, cold).equals(EXPECTED)
    one = read(store, cold, Selection(("a",), START, START + timedelta(minutes=1)))
    assert one.equals(EXPECTED.slice(0, 1))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("views", pa.array([1.5, None])),
        ("likes", pa.array([float("nan"), 1.0])),
        ("views", pa.array([2**63, None], pa.uint64())),
        ("comment_count", pa.array(["1", "2"])),
        ("timestamp", pa.array([1, 1_001], pa.timestamp("ns", "UTC"))),
        ("timestamp", pa.array([1, 2], pa.int64())),
        ("timestamp", None),
        ("timestamp", pa.array([START, None], pa.timestamp("us", "UTC"))),
        ("video_id", None),
        ("video_id", pa.array(["a", None])),
        ("video_id", pa.array([1, 2])),
        ("video_id", pa.array([b"a", b"\xff"])),
    ],
    ids=lambda one: str(getattr(one, "type", one)),
)
def test_what_would_lose_a_value_is_refused_by_the_columns_name(
    store: ObjectStore, column: str, values: Any
) -> None:
    with pytest.raises(CorruptObject, match=column) as caught:
        read(store, put(store, drifted(**{column: values})))
    assert caught.value.path == KEY


# damage


SELECTIONS = (
    Selection(),
    Selection(("video-0001", "video-0030")),
    Selection(("video-0012",), START + timedelta(hours=3), START + timedelta(hours=9)),
)


def test_a_flipped_bit_never_gives_other_rows(store: ObjectStore) -> None:
    cold, content = stored(store, samples())
    expected = [read(store, cold, one) for one in SELECTIONS]
    refused = 0
    random_ = random.Random(11)
    for _ in range(300):
        damaged = bytearray(content)
        damaged[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
        store.put_bytes(KEY, bytes(damaged))
        footers.clear()
        for selection, wanted in zip(SELECTIONS, expected, strict=True):
            try:
                assert read(store, cold, selection).equals(wanted)
            except VaultError:
                refused += 1
    assert refused > 300  # of 900: pages that a selection does not need are not looked at


def test_a_damaged_page_is_told_by_its_checksum_with_the_footer_remembered(
    store: ObjectStore,
) -> None:
    cold, content = stored(store, samples())
    read(store, cold)
    page = open_cold(store, cold, Selection()).footer.metadata.row_group(1).column(2)
    damaged = bytearray(content)
    damaged[page.data_page_offset + page.total_compressed_size // 2] ^= 16
    store.put_bytes(KEY, bytes(damaged))
    with pytest.raises(CorruptObject, match="checksum"):
        read(store, cold)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_truncated_or_longer_object_is_refused(store: ObjectStore, remembered: bool) -> None:
    cold, content = stored(store, samples())
    for other in (content[:-1], content[: len(content) // 2], b"", content + b"\0", content * 2):
        store.put_bytes(KEY, content)
        if remembered:
            read(store, cold)
        store.put_bytes(KEY, other)
        with pytest.raises(CorruptObject, match="written were"):
            read(store, cold)
        footers.clear()
        unknown = replace(cold, byte_size=None, row_count=1_200)
        if other != content * 2:  # that is two whole files, of which the second is read
            with pytest.raises(CorruptObject):
                read(store, unknown)


def test_a_file_with_other_rows_than_the_ledger_says_is_refused(store: ObjectStore) -> None:
    cold, _ = stored(store, samples())
    assert read(store, replace(cold, row_count=1_200)).num_rows == 1_200
    footers.clear()
    with pytest.raises(CorruptObject, match="other rows than the ledger"):
        read(store, replace(cold, row_count=1_201))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"\xff" * 92 + b"\xff\0\0\0PAR1"])
def test_what_is_no_parquet_file_is_refused(store: ObjectStore, content: bytes) -> None:
    with pytest.raises(CorruptObject):
        read(store, put(store, content))


def test_an_absent_object_is_an_error_not_an_empty_file(store: ObjectStore) -> None:
    cold = ColdFile(KEY, store.identity, START, START, None, 5, in_ledger=True)
    with pytest.raises(VaultError, match="not in the vault"):
        read(store, cold)


# what is remembered


def counting(store: ObjectStore) -> tuple[CountedStore, ObjectStore]:
    counted = CountedStore(store)
    return counted, cast(ObjectStore, counted)


def large(store: ObjectStore) -> ColdFile:
    """A file that is not read whole with its footer."""
    cold, content = stored(store, samples(videos=1_000), group=6_000)
    assert len(content) > 2 * TAIL_BYTES
    return cold


def test_footers_of_the_ledger_are_remembered_and_no_others(store: ObjectStore) -> None:
    cold = large(store)
    for in_ledger, reads in ((True, [2, 1, 1]), (False, [2, 2, 2])):
        footers.clear()
        counted, spied = counting(store)
        for expected in reads:
            counted.counts.reads.clear()
            one = replace(cold, in_ledger=in_ledger)
            assert read(spied, one, Selection(("video-0001",))).num_rows == 24
            assert len(counted.counts.reads) == expected


def test_a_long_footer_takes_one_more_request(store: ObjectStore) -> None:
    cold, content = stored(store, samples(videos=700), group=50)
    counted, spied = counting(store)
    assert int.from_bytes(content[-8:-4], "little") > TAIL_BYTES
    assert read(spied, cold, Selection(("video-0001",))).num_rows == 24
    assert len(counted.counts.reads) == 3


def test_the_cache_forgets_the_least_recently_used_beyond_its_bytes(store: ObjectStore) -> None:
    cold = large(store)
    footer, _ = fetch_footer(store, cold)
    cache = FooterCache(limit=3 * footer.weight)
    files = [replace(cold, object_key=str(number)) for number in range(4)]
    for one in files[:3]:
        cache.put(one, footer)
        cache.put(one, footer)
    assert cache.get(files[0]) is footer
    cache.put(files[3], footer)
    assert [cache.get(one) is not None for one in files] == [True, False, True, True]
    assert cache.bytes == 3 * footer.weight
    # another vault or another size is another object
    assert cache.get(replace(files[0], vault="elsewhere")) is None
    assert cache.get(replace(files[0], byte_size=1)) is None


def test_adjacent_row_groups_are_one_request_and_so_many_at_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atlas.reading.cold.PART_GROUPS", 2)
    cold = large(store)
    counted, spied = counting(store)
    assert read(spied, cold).num_rows == 24_000
    assert [len(part) for part in open_cold(spied, cold, Selection()).parts] == [2, 2]
    assert len(counted.counts.reads) == 3


def test_only_the_columns_asked_for_are_made(store: ObjectStore) -> None:
    cold, _ = stored(store, samples())
    schema = pa.schema([HOT_SCHEMA.field(name) for name in ("video_id", "timestamp", "views")])
    tables = list(read_cold(store, cold, Selection(("video-0003",)), schema))
    assert {table.schema for table in tables} == {schema}
    assert sum(table.num_rows for table in tables) == 24


# order in bounded memory


row = st.tuples(st.text("aB9_-", min_size=1, max_size=2), st.integers(0, 3), st.integers(0, 9))


@pytest.mark.parametrize("fan_in", [2, 64])
@given(rows=st.lists(row, max_size=60), size=st.integers(1, 9))
def test_runs_on_disk_give_every_key_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, fan_in: int, rows: list[Any], size: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    table = pa.table(
        [
            [one[0] for one in rows],
            pa.array([one[1] for one in rows], pa.int64()).cast(pa.timestamp("us", "UTC")),
            *([[one[2] for one in rows]] * 4),
        ],
        schema=HOT_SCHEMA,
    )
    winners: dict[tuple[str, int], int] = {}
    for video_id, moment, priority in rows:
        winners[video_id, moment] = max(priority, winners.get((video_id, moment), 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external_sort, "RUN_ROWS", 7)
        patch.setattr(external_sort, "FAN_IN", fan_in)
        patch.setattr(external_sort, "_CHUNK_ROWS", 3)
        by_id, by_time = runs_by_id(lambda: folder), runs_by_time(lambda: folder)
        for start in range(0, table.num_rows, size):
            by_id.add(table.slice(start, size))
        merged = []
        for part in by_id.merged():
            merged.append(part)
            by_time.add(part)
        assert _keys(merged) == [(*key, winners[key]) for key in sorted(winners)]
        found = _keys(by_time.merged())
        assert found == [
            (*key, winners[key]) for key in sorted(winners, key=lambda key: (key[1], key[0]))
        ]
    assert list(folder.iterdir()) == []


def _keys(tables: Any) -> list[tuple[str, int, int]]:
    return [
        (video_id, moment, priority)
        for table in tables
        for video_id, moment, priority in zip(
            table["video_id"].to_pylist(),
            table["timestamp"].cast(pa.int64()).to_pylist(),
            table["priority"].to_pylist(),
            strict=True,
        )
    ]


def test_few_rows_are_put_in_order_without_a_folder() -> None:
    def refuse() -> Path:
        raise AssertionError("asked for a folder")

    make: Callable[[Callable[[], Path]], external_sort.Runs]
    for make in (runs_by_id, runs_by_time):
        runs = make(refuse)
        runs.add(EXPECTED)
        assert sum(table.num_rows for table in runs.merged()) == 2
        assert list(make(refuse).merged()) == []
