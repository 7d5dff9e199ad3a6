"""Objects under metrics/ that nobody vouches for: rows that can be samples, in bounded memory, or nothing."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import CorruptObject
from atlas.reading.appended import appended_files, as_samples
from atlas.reading.cold import open_cold, why_left_out
from atlas.repositories.hot.snapshot import ColdFile, Selection
from atlas.types import ObjectStore
from atlas.vault import LocalVault

AT = datetime(2026, 1, 15, 10, tzinfo=UTC)
NOW = datetime(2026, 2, 1, tzinfo=UTC)
KEY = "metrics/date=2026-01-15/hour=10/stats.parquet"
LARGEST = 2**63 - 1


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return LocalVault(tmp_path / "vault").store


def put(store: ObjectStore, table: pa.Table, key: str = KEY, **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target, **options)
    store.put_bytes(key, target.getvalue())
    return target.getvalue()


def shown(store: ObjectStore) -> list[dict[str, Any]]:
    """What readers make of all that lies there."""
    rows: list[dict[str, Any]] = []
    for cold in appended_files(store, Selection(), now=NOW):
        file = open_cold(store, cold, Selection(), forgiving=True)
        for part in file.parts:
            rows += file.read(part).to_pylist()
    return rows


def reasons(store: ObjectStore) -> list[str | None]:
    return [why_left_out(store, cold) for cold in appended_files(store, Selection(), now=NOW)]


# what was meant well


@pytest.mark.parametrize(
    "moments",
    [
        ["2026-01-15T10:00:00", "2026-01-15 11:00:00Z"],
        [datetime(2026, 1, 15, 10), datetime(2026, 1, 15, 11)],
        pa.array([AT, AT + timedelta(hours=1)], pa.timestamp("ns", "UTC")),
        pa.array([AT, AT + timedelta(hours=1)], pa.timestamp("s", "Europe/Berlin")),
    ],
)
def test_what_the_first_version_wrote_is_read(store: ObjectStore, moments: Any) -> None:
    put(
        store,
        pa.table(
            {
                "video_id": ["V", "W"],
                "timestamp": moments,
                "views": [1.0, float("nan")],
                "likes": pa.array([2, None], pa.int32()),
                "comments": [3.0, 4.0],
                "title": ["not", "looked at"],
            }
        ),
    )
    first, second = shown(store)
    assert first == {
        "video_id": "V",
        "timestamp": AT,
        "views": 1,
        "likes": 2,
        "comment_count": 3,
        "priority": 0,
    }
    assert (second["timestamp"], second["views"]) == (AT + timedelta(hours=1), None)
    assert reasons(store) == [None]


# what was not


def row(**values: Any) -> pa.Table:
    good = {"video_id": "V", "timestamp": AT, "views": 1, "likes": 2, "comment_count": 3, "seq": 4}
    names = good | values
    return pa.table(
        {name: one if isinstance(one, pa.Array) else [one] for name, one in names.items()}
    )


WRONG: dict[str, pa.Table] = {
    "a path for an id": row(video_id="../../etc; drop"),
    "no id": row(video_id=""),
    "a long id": row(video_id="v" * 65),
    "an id and a line": row(video_id="V\n"),
    "null for an id": row(video_id=pa.array([None], pa.string())),
    "a negative counter": row(views=-1),
    "a fraction": row(likes=1.5),
    "infinity": row(likes=float("inf")),
    "a large counter": row(views=pa.array([2**63], pa.uint64())),
    "words for a counter": row(comment_count="many"),
    "a time before there was YouTube": row(timestamp=datetime(1999, 1, 1, tzinfo=UTC)),
    "a time far ahead": row(timestamp=NOW + timedelta(days=2)),
    "the year 148,000": row(
        timestamp=pa.array([4_600_000_000_000_000_000], pa.timestamp("us", "UTC"))
    ),
    "milliseconds that overflow": row(timestamp=pa.array([LARGEST], pa.timestamp("ms"))),
    "words for a time": row(timestamp="yesterday"),
    "null for a time": row(timestamp=pa.array([None], pa.timestamp("us", "UTC"))),
    "a number for a time": row(timestamp=1_768_471_200),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_row_that_is_no_sample_is_left_out_and_named(store: ObjectStore, what: str) -> None:
    put(store, WRONG[what])
    assert shown(store) == []
    (reason,) = reasons(store)
    assert reason is not None and "no samples" in reason


@pytest.mark.parametrize(
    "table",
    [
        row().drop_columns(["video_id"]),
        row().drop_columns(["timestamp"]),
        row(video_id=7),
        row(views=pa.array([[1]])),
    ],
)
def test_an_object_without_samples_is_left_out_and_named(
    store: ObjectStore, table: pa.Table
) -> None:
    put(store, table)
    assert shown(store) == []
    assert reasons(store) != [None]


@pytest.mark.parametrize(
    "name",
    [
        "99999999999999999999-99999999999999999999-" + "0" * 32 + ".parquet",
        "99999999999999999-99999999999999999-" + "0" * 32 + ".parquet",
        "junk.parquet",
    ],
)
def test_junk_and_numbers_that_are_no_times_are_left_out(store: ObjectStore, name: str) -> None:
    store.put_bytes(f"metrics/date=2026-01-15/hour=10/{name}", b"PAR1" + b"\xff" * 200 + b"PAR1")
    assert shown(store) == []
    assert reasons(store) != [None]


def test_rows_outside_of_what_the_name_says_are_left_out(store: ObjectStore) -> None:
    first = int(AT.timestamp()) * 1_000_000
    folder = "metrics/date=2026-01-15/hour=10"
    put(store, row(), f"{folder}/{first + 1}-{first + 2}-{'0' * 32}.parquet")
    assert shown(store) == []
    assert reasons(store) != [None]


# bounded memory


def test_a_row_group_of_millions_is_not_decoded(store: ObjectStore) -> None:
    rows = 3_000_000
    table = pa.table({"video_id": pa.array(["V"]).take(pa.repeat(pa.scalar(0), rows))})
    put(
        store, table.append_column("timestamp", pa.repeat(pa.scalar(AT), rows)), row_group_size=rows
    )
    before = pa.total_allocated_bytes()
    assert shown(store) == []
    (reason,) = reasons(store)
    assert reason is not None and "3000000 rows" in reason
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_text_of_megabytes_in_every_row_is_not_spread_out(store: ObjectStore) -> None:
    long = pa.array(["x" * (1 << 20)]).dictionary_encode()
    ids = pa.DictionaryArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), 100_000), long.dictionary
    )
    put(store, pa.table({"video_id": ids, "timestamp": pa.repeat(pa.scalar(AT), 100_000)}))
    pool = pa.default_memory_pool()
    assert shown(store) == []
    assert pool.max_memory() < 2 << 30  # spread out they would be 100 GB


def test_what_pages_become_is_told_by_their_headers_not_by_the_footer(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, row(video_id=pa.array(["V"] * 1)), compression="zstd")
    for name, value in (("PAGE_BYTES", 2), ("CHUNK_BYTES", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(f"atlas.tables.pages.{name}", value)
            assert shown(store) == []
    assert len(shown(store)) == 1


# whatever comes


ARRAYS = st.one_of(
    *(st.lists(kind, min_size=2, max_size=2) for kind in (
        st.none() | st.integers(-(2**63), LARGEST),
        st.none() | st.floats(),
        st.none() | st.text(max_size=3),
        st.none() | st.sampled_from(["V", "2026-01-15T10:00:00", "1", "a" * 70]),
        st.none() | st.booleans(),
        st.none() | st.datetimes(datetime(1700, 1, 2), datetime(2200, 1, 1)),
        st.none() | st.binary(max_size=3),
        st.none() | st.lists(st.integers(0, 3), max_size=2),
        st.none() | st.decimals(allow_nan=False, allow_infinity=False, min_value=-99, max_value=99, places=1),
    ))
)  # fmt: skip
NAMES = (
    "video_id",
    "timestamp",
    "views",
    "likes",
    "comment_count",
    "comments",
    "seq",
    "published_at",
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    columns=st.dictionaries(st.sampled_from(NAMES), ARRAYS, min_size=1),
    flips=st.lists(st.integers(0, 10**6), max_size=2),
    seed=st.integers(0, 99),
)
def test_no_object_fails_a_read_and_all_that_is_shown_can_be_a_sample(
    store: ObjectStore, columns: dict[str, list[Any]], flips: list[int], seed: int
) -> None:
    content = bytearray(
        put(store, pa.table(columns), compression=["zstd", "snappy", "none"][seed % 3])
    )
    # the decoder of footers is known to fall over damaged ones, which only files of Atlas can be told by
    body = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for flip in flips:
        content[4 + flip % max(1, body - 4)] ^= 1 << random.Random(seed).randrange(8)
    store.put_bytes(KEY, bytes(content))
    for sample in shown(store):
        assert 1 <= len(sample["video_id"]) <= 64 and sample["video_id"].isascii()
        assert datetime(2005, 1, 1, tzinfo=UTC) <= sample["timestamp"] <= NOW + timedelta(days=1)
        for name in ("views", "likes", "comment_count"):
            assert sample[name] is None or sample[name] >= 0
        assert sample["priority"] <= NOW.timestamp() * 1_000_000
    reasons(store)


# a clock that is fast


def bounded(seqs: list[int], arrived: datetime | None) -> list[int]:
    cold = ColdFile(
        KEY, "x", datetime.min.replace(tzinfo=UTC), NOW, None, arrived=arrived, seen=NOW
    )
    table = pa.table({"video_id": ["V"] * len(seqs), "timestamp": [AT] * len(seqs), "seq": seqs})
    found: list[int] = as_samples(table, cold)["priority"].to_pylist()
    return found


def test_no_row_is_later_than_its_object_and_the_order_of_a_machine_stays() -> None:
    now, arrived = (int(one.timestamp()) * 1_000_000 for one in (NOW, AT))
    hour = 3_600_000_000
    assert bounded([arrived - 5, arrived + 5, 7], AT) == [arrived - 5, arrived + 5, 7]
    fast = bounded([arrived + hour, arrived + hour + 1_000_000, arrived + 9 * hour, LARGEST], AT)
    assert fast == sorted(fast) and len(set(fast)) == 4
    assert fast[0] < arrived + 100_000 and fast[-1] <= now
    unknown = bounded([now - 5, now, now + hour, now + 2 * hour, LARGEST], None)
    assert unknown[:2] == [now - 5, now]
    assert now - 1_000_000 <= unknown[2] < unknown[3] <= unknown[4] <= now
    with pytest.raises(CorruptObject):
        as_samples(pa.table({"video_id": ["V"]}), ColdFile(KEY, "x", AT, AT, None))
