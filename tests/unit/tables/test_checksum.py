"""Damage to a file of the vault is told, wherever it is."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.tables.checksum import KEY, check_footer
from atlas.tables.parquet import STATS_SCHEMA, open_writer


def footer_of(content: bytes) -> bytes:
    return content[-8 - int.from_bytes(content[-8:-4], "little") :]


def written(target: io.BytesIO | Path) -> bytes:
    table = pa.Table.from_pylist([{"video_id": "v", "views": 1, "seq": 1}], STATS_SCHEMA)
    with open_writer(target, STATS_SCHEMA, {"atlas.before": "1"}) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"atlas.after": "2"})
    return target.read_bytes() if isinstance(target, Path) else target.getvalue()


def test_a_footer_carries_a_checksum_that_holds_whatever_it_is_written_to(tmp_path: Path) -> None:
    content = written(tmp_path / "a.parquet")
    assert content == written(io.BytesIO())
    check_footer(footer_of(content))
    metadata = pq.read_metadata(pa.BufferReader(content)).metadata
    assert set(metadata) >= {KEY.encode(), b"atlas.before", b"atlas.after"}
    assert metadata[KEY.encode()] != b"00000000"


def test_any_flipped_bit_of_a_footer_is_told() -> None:
    footer = footer_of(written(io.BytesIO()))
    at = footer.index(KEY.encode())
    # a name that is damaged itself says nothing about the others
    own = range(at, at + len(KEY) + 2)
    for position in (place for place in range(len(footer)) if place not in own):
        damaged = bytearray(footer)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(ValueError, match="damaged"):
            check_footer(bytes(damaged))


def test_a_flipped_bit_of_a_page_is_told() -> None:
    content = bytearray(written(io.BytesIO()))
    column = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(0).column(2)
    content[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    with (
        pq.ParquetFile(pa.BufferReader(bytes(content)), page_checksum_verification=True) as file,
        pytest.raises(OSError, match="checksum"),
    ):
        file.read()


def test_footers_of_other_writers_pass() -> None:
    target = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), target)
    check_footer(footer_of(target.getvalue()))


def test_a_full_disk_is_told_as_such_and_not_by_what_closing_meets_then() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 100:
                raise OSError(errno.ENOSPC, "full")
            return super().write(data)

    with pytest.raises(OSError, match="full") as caught:
        written(Full())
    assert caught.value.errno == errno.ENOSPC
