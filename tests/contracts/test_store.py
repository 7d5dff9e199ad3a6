"""What the store beneath every vault promises: creating, swapping, reading in ranges."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.errors import ObjectExists
from atlas.tables.parquet import METRICS_SCHEMA
from atlas.types import ObjectStore
from atlas.vault import Vault
from tests.contracts.test_metrics import row


def test_the_store_is_what_the_archive_asks_for(vault: Vault) -> None:
    assert isinstance(vault.store, ObjectStore)
    assert vault.identity == vault.store.identity


def test_a_create_only_write_never_replaces(vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_bytes(b"second")
    vault.store.put_files([("taken", _file(tmp_path, b"first"))])
    for again in (
        lambda: vault.store.put_files([("taken", path)]),
        lambda: vault.store.put_bytes("taken", b"second", overwrite=False),
        lambda: vault.store.put_bytes("taken", b"first", overwrite=False),
    ):
        with pytest.raises(ObjectExists) as caught:
            again()
        assert caught.value.path == "taken"
    assert vault.store.get_bytes("taken") == b"first"


def test_many_files_are_created_all_or_none(vault: Vault, tmp_path: Path) -> None:
    path = _file(tmp_path, b"x")
    vault.store.put_files([("d/1", path), ("d/2", path)])
    with pytest.raises(ObjectExists):
        vault.store.put_files([("d/3", path), ("d/2", path)])
    assert vault.list_files() == ["d/1", "d/2"]
    vault.store.put_files([])


def test_one_of_many_creators_wins_and_its_content_stays(vault: Vault) -> None:
    barrier = threading.Barrier(8)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            vault.store.put_bytes("one", b"%d" % number * 1000, overwrite=False)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert vault.store.get_bytes("one") == b"%d" % won.index(True) * 1000


def test_a_swap_needs_the_expected_content(vault: Vault) -> None:
    swap = vault.store.compare_and_swap
    assert not swap("cas", b"something", b"1")
    assert vault.store.get_bytes("cas") is None
    assert swap("cas", None, b"1")
    assert not swap("cas", None, b"2")
    assert not swap("cas", b"0", b"2")
    assert swap("cas", b"1", b"2")
    assert vault.store.get_bytes("cas") == b"2"


def test_of_concurrent_swaps_each_is_seen_by_the_next(vault: Vault) -> None:
    """A counter raised by compare-and-swap loses no step."""

    def climb(_: int) -> None:
        done = 0
        while done < 5:
            before = vault.store.get_bytes("n")
            done += vault.store.compare_and_swap("n", before, b"%d" % (int(before or 0) + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(climb, range(4)))
    assert vault.store.get_bytes("n") == b"20"


def test_concurrent_writers_leave_one_whole_object(vault: Vault) -> None:
    contents = [bytes([number]) * 200_000 for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda content: vault.store_binary("shared", content), contents))
    assert vault.store.get_bytes("shared") in contents


def test_a_reader_fetches_ranges(vault: Vault) -> None:
    content = bytes(range(256)) * 400
    vault.store_binary("ranges", content)
    reader = vault.store.open("ranges")
    assert reader is not None
    with reader:
        assert reader.seek(-10, io.SEEK_END) == len(content) - 10
        assert reader.read() == content[-10:]
        assert reader.read(1) == b""
        reader.seek(1000)
        reader.seek(24, io.SEEK_CUR)
        assert reader.tell() == 1024
        assert reader.read(5) == content[1024:1029]
        buffer = bytearray(7)
        assert reader.readinto(buffer) == 7
        assert bytes(buffer) == content[1029:1036]
        reader.seek(len(content) + 5)
        assert reader.read() == b""
    assert reader.closed


def test_parquet_is_read_through_the_reader(vault: Vault) -> None:
    vault.append_metrics([row(f"V{n}", n % 60) for n in range(500)])
    (key,) = vault.list_files("metrics")
    source = vault.store.open(key)
    assert source is not None
    with source, pq.ParquetFile(source) as file:
        assert file.schema_arrow.equals(METRICS_SCHEMA)
        assert file.read().num_rows == 500


def test_delete_removes_and_a_repeat_is_no_error(vault: Vault) -> None:
    vault.store_binary("a/1", b"x")
    vault.store_binary("a/2", b"x")
    for _ in range(2):
        vault.store.delete(["a/1", "a/absent"])
    assert vault.list_files() == ["a/2"]


# gcsfs hands aiohttp its pieces as bytes, which warns above a megabyte
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_large_object_goes_in_pieces_and_comes_back_whole(vault: Vault, tmp_path: Path) -> None:
    content = bytes(range(256)) * 80_000  # 20 MB: more than one request of an upload
    vault.store.put_files([("large", _file(tmp_path, content))])
    assert vault.store.get_bytes("large") == content


def _file(folder: Path, content: bytes) -> Path:
    path = folder / f"source-{len(content)}"
    path.write_bytes(content)
    return path
