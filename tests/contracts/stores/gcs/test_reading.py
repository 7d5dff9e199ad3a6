"""Reads and listings of the store of Google Cloud Storage, while others write."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from atlas.errors import VaultUnavailable
from atlas.vault import Vault
from atlas.vault.stores.gcs import GCSStore
from tests.support.impatience import FOR_EVER
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply


def test_a_document_that_is_replaced_while_it_is_read_comes_back_whole(
    vault: Vault, gcs: Gcs, other: GCSStore
) -> None:
    """Without versions a bucket forgets the generation that was looked up a moment ago."""
    vault.store_json("x.json", 1)
    with ThreadPoolExecutor(1) as pool:
        writes = [pool.submit(other.put_bytes, "x.json", b"%d" % n) for n in range(2, 30)]
        while not all(write.done() for write in writes):
            assert vault.fetch_json("x.json") in range(1, 30)
    assert vault.fetch_json("x.json") == 29


def test_a_reader_whose_object_is_replaced_gets_an_error_not_a_mixture(vault: Vault) -> None:
    vault.store_binary("x", b"a" * 100)
    reader = vault.store.open("x")
    assert reader is not None
    with reader:
        assert reader.read(50) == b"a" * 50
        vault.store_binary("x", b"b" * 100)
        with pytest.raises(VaultUnavailable):
            reader.read(50)


def test_a_document_that_arrives_otherwise_is_told(vault: Vault, gcs: Gcs) -> None:
    vault.store_json("x.json", [1])
    md5 = base64.b64encode(hashlib.md5(b"[1]").digest()).decode()
    said = {"x-goog-hash": f"crc32c=AAAAAA==,md5={md5}"}
    gcs.faults["read"].extend([Reply(200, b"[2]", said)] * FOR_EVER)
    with pytest.raises(VaultUnavailable):
        vault.fetch_json("x.json")


def test_a_listing_shows_what_another_writer_just_did(vault: Vault, other: GCSStore) -> None:
    vault.store_binary("d/1", b"x")
    assert vault.list_files("d") == ["d/1"]
    other.put_bytes("d/2", b"x")
    assert vault.list_files("d") == ["d/1", "d/2"]
    assert vault.store.stat("d/2") is not None
    other.delete(["d/1"])
    assert vault.list_files("d") == ["d/2"]
    assert vault.store.stat("d/1") is None
    assert vault.fetch_binary("d/1") is None


def test_a_listing_is_whole_past_a_page(vault: Vault, gcs: Gcs) -> None:
    keys = [f"d{n % 3}/ü{n:03}" for n in range(30)]
    vault.store_batch([(key, b"x") for key in keys])
    gcs.page = 4
    gcs.counts.clear()
    assert vault.list_files() == sorted(keys)
    assert vault.list_files("d1/") == sorted(key for key in keys if key.startswith("d1/"))
    assert gcs.counts["list"] == 8 + 3


def test_a_listing_that_fails_on_its_second_page_is_an_error(vault: Vault, gcs: Gcs) -> None:
    vault.store_batch([(f"d/{n}", b"x") for n in range(6)])
    gcs.page = 4
    gcs.before["list"].extend(
        [lambda: None, lambda: gcs.faults["list"].extend([refusal(503)] * FOR_EVER)]
    )
    with pytest.raises(VaultUnavailable):
        vault.list_files()
