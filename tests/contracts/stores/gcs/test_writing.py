"""Writes of the store of Google Cloud Storage: created once, whole or not at all, and proved."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.errors import ObjectExists, VaultUnavailable, VerificationFailed
from atlas.vault import Vault
from atlas.vault.stores.gcs import GCSStore
from tests.support.impatience import FOR_EVER
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply

#: Sizes that go in one request, and in several of a resumable session.
SMALL, LARGE = 1_000, 20_000_000
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])

# gcsfs hands aiohttp its pieces as bytes, which warns above a megabyte
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


def source(folder: Path, size: int) -> Path:
    path = folder / f"source-{size}"
    path.write_bytes(os.urandom(size))
    return path


@SIZES
def test_a_create_only_write_is_refused_by_the_service_itself(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    """Nobody looks first: of two writers both would see nothing there."""
    path = source(tmp_path, size)
    vault.store.put_files([("taken", path)])
    assert gcs.counts["stat"] == 0
    with pytest.raises(ObjectExists):
        vault.store.put_files([("taken", source(tmp_path, size + 1))])
    assert vault.store.get_bytes("taken") == path.read_bytes()


@SIZES
def test_a_lost_answer_of_a_create_only_write_is_settled_by_reading(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    path = source(tmp_path, size)
    if size == SMALL:
        gcs.faults["upload"].append(gcs.lost)
    else:  # of the last of three pieces
        lose = [lambda: None, lambda: None, lambda: gcs.faults["chunk"].append(gcs.lost)]
        gcs.before["chunk"].extend(lose)
    vault.store.put_files([("once", path)])
    assert vault.store.get_bytes("once") == path.read_bytes()
    assert (gcs.counts["stat"], gcs.counts["chunk"]) == (1, 0 if size == SMALL else 3)
    with pytest.raises(ObjectExists):
        vault.store.put_files([("once", path)])


def test_what_another_writer_created_meanwhile_is_not_taken_for_ours(
    vault: Vault, bucket: GCSStore, gcs: Gcs
) -> None:
    """Though it has the same content, and our own first request had no answer."""
    name = f"{bucket._root}x".split("/", 1)[1]
    gcs.faults["upload"].append(Reply(cut=True))
    gcs.before["upload"].extend([lambda: None, lambda: gcs.put(name, b"same")])
    with pytest.raises(ObjectExists):
        vault.store.put_bytes("x", b"same", overwrite=False)


def test_a_swap_whose_answer_was_lost_is_known_for_our_own(vault: Vault, gcs: Gcs) -> None:
    gcs.faults["upload"].append(gcs.lost)
    assert vault.store.compare_and_swap("n", None, b"1")
    gcs.faults["upload"].append(gcs.lost)
    assert vault.store.compare_and_swap("n", b"1", b"2")
    assert vault.store.get_bytes("n") == b"2"


def test_a_lost_answer_of_a_removal_is_no_error(vault: Vault, gcs: Gcs) -> None:
    vault.store_binary("x", b"1")
    gcs.faults["delete"].append(gcs.lost)
    vault.store.delete(["x"])
    assert vault.list_files() == []


@pytest.mark.parametrize("fault", [Reply(cut=True), refusal(503)], ids=["cut", "503"])
def test_an_upload_that_is_broken_off_leaves_nothing(
    vault: Vault, gcs: Gcs, tmp_path: Path, fault: Reply
) -> None:
    path = source(tmp_path, LARGE)
    left = gcs.open_sessions  # by other tests, whose uploads died
    gcs.before["chunk"].extend(
        [lambda: None, lambda: gcs.faults["chunk"].extend([fault] * FOR_EVER)]
    )
    for put in (
        lambda: vault.store.put_files([("large", path)]),
        lambda: vault.store_binary("large", path.read_bytes()),
    ):
        with pytest.raises(VaultUnavailable):
            put()
        assert vault.list_files() == []
        assert vault.store.stat("large") is None
        assert gcs.open_sessions == left
    gcs.reset()
    vault.store.put_files([("large", path)])
    assert vault.store.get_bytes("large") == path.read_bytes()


@SIZES
def test_an_upload_that_is_stored_otherwise_is_told_and_not_left_under_its_name(
    vault: Vault, gcs: Gcs, size: int, tmp_path: Path
) -> None:
    path = source(tmp_path, size)
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store.put_files([("x", path)])
    assert vault.list_files() == []
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store_binary("y", path.read_bytes())


@pytest.mark.parametrize("call", ["put_files", "compare_and_swap", "append_metrics"])
def test_what_arrives_damaged_is_refused_and_never_there(
    vault: Vault, gcs: Gcs, call: str, tmp_path: Path
) -> None:
    """A writer that dies before it has looked would leave it under its name."""
    gcs.flips = 1
    row = {"video_id": "V", "timestamp": "2026-01-15T10:00:00Z", "views": 1}
    with pytest.raises(VerificationFailed):
        match call:
            case "put_files":
                vault.store.put_files([("x", source(tmp_path, 100))])
            case "compare_and_swap":
                vault.store.compare_and_swap("x", None, b"1")
            case _:
                vault.append_metrics([row])
    assert gcs.counts["upload"] == 1
    assert gcs.counts["delete"] == 0
    assert vault.list_files() == []


def test_rows_that_were_stored_otherwise_are_delivered_by_the_next_call(
    vault: Vault, gcs: Gcs
) -> None:
    """An object under their name counts as delivered, and must be theirs."""
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.append_metrics([{"video_id": "V", "timestamp": "2026-01-15T10:00:00Z", "views": 1}])
    vault.flush()
    (key,) = vault.list_files("metrics")
    table = pq.read_table(vault.fetch_binary(key))
    assert table["views"].to_pylist() == [1]


def test_a_swap_that_is_stored_otherwise_is_told(vault: Vault, gcs: Gcs) -> None:
    gcs.flips = 1
    with pytest.raises(VerificationFailed):
        vault.store.compare_and_swap("n", None, b"1")
