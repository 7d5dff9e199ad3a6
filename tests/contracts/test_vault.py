"""What every vault promises, whatever holds its objects."""

from __future__ import annotations

import io
import os
import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atlas.errors import CorruptObject, InvalidInput
from atlas.vault import LocalVault, MemoryVault, Vault

NAMES = [
    "a.txt",
    "deep/er/and deeper.bin",
    "ü/日本 語.json",
    "q?*#%41[x]&=+.txt",
    "_under/score",
    "x" * 200,
]


@pytest.mark.parametrize("name", NAMES)
def test_what_was_stored_comes_back_by_path_and_by_uri(vault: Vault, name: str) -> None:
    content = name.encode() * 3
    uri = vault.store_binary(name, content)
    assert uri == vault.store.uri(name)
    for address in (name, uri):
        found = vault.fetch_binary(address)
        assert found is not None
        assert found.read() == content
    info = vault.store.stat(name)
    assert info is not None
    assert (info.key, info.size) == (name, len(content))
    assert info.modified_at is not None
    assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert vault.list_files() == [name]


def test_an_empty_object_is_not_a_missing_one(vault: Vault) -> None:
    vault.store_binary("empty", b"")
    found = vault.fetch_binary("empty")
    assert found is not None
    assert found.read() == b""
    reader = vault.store.open("empty")
    assert reader is not None
    with reader:
        assert reader.read() == b""


def test_what_is_missing_is_none_from_every_fetch(vault: Vault) -> None:
    vault.store_binary("folder/there", b"x")
    for path in ("absent", "folder", "folder/there/below", "folder/ther"):
        assert vault.fetch_binary(path) is None
        assert vault.fetch_json(path) is None
        assert vault.store.open(path) is None
        assert vault.store.stat(path) is None
    assert vault.fetch_metadata("V1", "2026-01-15") is None
    assert vault.fetch_transcript("V1") is None
    assert vault.fetch_visual_evidence("V1") is None
    assert vault.list_files("absent") == vault.list_files("folder/there/") == []
    vault.store.delete(["absent", "folder/there/below"])


def test_content_that_cannot_be_decoded_is_an_error_not_a_gap(vault: Vault) -> None:
    for path in ("bad.json", "transcripts/V1/V1.json", "visuals/V1/V1.parquet"):
        vault.store_binary(path, b'{"half": "\xff')
    for fetch in (
        lambda: vault.fetch_json("bad.json"),
        lambda: vault.fetch_transcript("V1"),
        lambda: vault.fetch_visual_evidence("V1"),
    ):
        with pytest.raises(CorruptObject):
            fetch()


def test_json_is_unicode_and_the_same_data_gives_the_same_bytes(vault: Vault) -> None:
    data = {"ü": ["日本", None, True, 1.5, {"b": 1, "a": 2}], "a": ""}
    vault.store_json("one.json", data)
    vault.store_json("two.json", dict(reversed(data.items())))
    assert vault.fetch_json("one.json") == data
    assert vault.store.get_bytes("one.json") == vault.store.get_bytes("two.json")
    assert "日本".encode() in (vault.store.get_bytes("one.json") or b"")
    vault.store_json("one.json", None)
    assert vault.store.get_bytes("one.json") == b"null"


@pytest.mark.parametrize(
    "data", [{"x": float("nan")}, {1, 2}, b"bytes", datetime(2026, 1, 1), "\ud800", {"k": object()}]
)
def test_what_json_has_no_form_for_is_refused_and_nothing_is_written(
    vault: Vault, data: object
) -> None:
    with pytest.raises(InvalidInput):
        vault.store_json("x.json", data)
    assert vault.list_files() == []


def test_a_file_that_can_seek_is_stored_whole_wherever_it_stands(
    vault: Vault, tmp_path: Path
) -> None:
    written = io.BytesIO()
    written.write(b"0123456789")  # as DataFrame.to_parquet(written) leaves it: at its end
    vault.store_binary("from-buffer", written)
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    with path.open("rb") as source:
        source.seek(4)
        vault.store_binary("from-file", source)
        vault.store_batch({"in-batch": source})
    for key in ("from-buffer", "from-file", "in-batch"):
        assert vault.store.get_bytes(key) == b"0123456789"


def test_what_cannot_seek_is_stored_from_where_it_stands(vault: Vault) -> None:
    receiving, sending = os.pipe()
    with open(receiving, "rb") as source:
        with open(sending, "wb") as target:
            target.write(b"0123456789")
        source.read(4)
        vault.store_binary("from-pipe", source)
    assert vault.store.get_bytes("from-pipe") == b"456789"


def test_what_is_no_binary_file_is_refused(vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    source = path.open("rb")
    source.close()
    with path.open() as text, pytest.raises(InvalidInput):
        vault.store_binary("text", text)  # wrong on purpose
    with pytest.raises(InvalidInput):
        vault.store_binary("text", source)  # closed
    with pytest.raises(InvalidInput):
        vault.store_binary("text", "text")  # wrong on purpose
    assert vault.list_files() == []


def test_a_listing_has_every_key_that_starts_with_the_text_in_order(vault: Vault) -> None:
    keys = ["a/b/1", "a/b.x", "a/b-/1", "a/b0", "ab/1", "a2", "_hidden/1", "a/ü"]
    for key in keys:
        vault.store_binary(key, b"x")
    assert vault.list_files() == sorted(keys)
    for prefix in (
        "a",
        "a/",
        "a/b",
        "a/b/",
        "a/b-",
        "a/b.",
        "_hid",
        "a/u\u0308",
        "./a/b",
        "none",
        "a/n",
    ):
        start = unicodedata.normalize("NFC", prefix.removeprefix("./"))
        assert vault.list_files(prefix) == sorted(k for k in keys if k.startswith(start))


def test_metadata_is_filed_by_utc_date(vault: Vault) -> None:
    late = datetime(2026, 1, 15, 23, 30, tzinfo=timezone(timedelta(hours=-2)))
    vault.store_metadata("V_1-x", {"n": 1}, date="2026-01-15")
    vault.store_metadata("V_1-x", {"n": 2}, date=late)
    vault.store_metadata("V_1-x", {"n": 3}, date=date(2026, 1, 17))
    assert vault.list_files("metadata") == [
        f"metadata/2026-01-{day}/V_1-x.json" for day in (15, 16, 17)
    ]
    assert vault.fetch_metadata("V_1-x", date(2026, 1, 15)) == {"n": 1}
    assert vault.fetch_metadata("V_1-x", "2026-01-16") == {"n": 2}
    uri = vault.store_metadata("V2", {})
    today = datetime.now(UTC).date()
    assert uri in {
        vault.store.uri(f"metadata/{day}/V2.json") for day in (today, today - timedelta(1))
    }
    with pytest.raises(InvalidInput):
        vault.store_metadata("V2", {}, date="yesterday")


def test_a_transcript_is_found_in_its_folder_and_at_its_old_flat_path(vault: Vault) -> None:
    vault.store_json("transcripts/dQw4w9WgXcQ.json", ["old"])
    assert vault.fetch_transcript("dQw4w9WgXcQ") == ["old"]
    vault.store_transcript("dQw4w9WgXcQ", ["new"])
    assert vault.fetch_transcript("dQw4w9WgXcQ") == ["new"]
    assert vault.fetch_json("transcripts/dQ/dQw4w9WgXcQ.json") == ["new"]


def test_frames_come_back_in_order_and_lie_where_the_contract_says(vault: Vault) -> None:
    frames = [(30, b"\xff\xd8three"), (0, b""), (10, bytes(range(256)))]
    vault.store_visual_evidence("V1", frames)
    assert vault.fetch_visual_evidence("V1") == sorted(frames)
    raw = vault.fetch_binary("visuals/V1/V1.parquet")
    assert raw is not None
    table = pq.read_table(raw)
    assert table.column_names == ["video_id", "frame_index", "image"]
    assert set(table["video_id"].to_pylist()) == {"V1"}
    for wrong in ([(2**63, b"")], [("x", b"")], [(1, "text")], [7]):
        with pytest.raises(InvalidInput):
            vault.store_visual_evidence("V1", wrong)  # wrong on purpose
    assert vault.fetch_visual_evidence("V1") == sorted(frames)


def test_frames_of_a_network_stream_are_stored_as_they_come(vault: Vault) -> None:
    vault.store_visual_evidence("V1", [(5, b"first"), (-1, b"before"), (5, b"last"), (0, b"")])
    assert vault.fetch_visual_evidence("V1") == [(-1, b"before"), (0, b""), (5, b"last")]


def test_a_batch_takes_bytes_files_and_data_for_json(vault: Vault) -> None:
    uris = vault.store_batch(
        [("b/raw", b"1"), ("b/file", io.BytesIO(b"2")), ("b/j.json", {"n": 3})]
    )
    assert uris == [vault.store.uri(key) for key in ("b/raw", "b/file", "b/j.json")]
    assert [vault.store.get_bytes(key) for key in ("b/raw", "b/file", "b/j.json")] == [
        b"1",
        b"2",
        b'{"n":3}',
    ]
    assert vault.store_batch({"b/raw": b"replaced"}) == uris[:1]
    assert vault.store.get_bytes("b/raw") == b"replaced"
    assert vault.store_batch([]) == []
    with pytest.raises(InvalidInput):
        vault.store_batch([("b/new", b"1"), ("../x", b"2")])
    assert vault.list_files() == ["b/file", "b/j.json", "b/raw"]


TAKEN = ("video_stats/date=2026-01-15/a", "metrics/x", "videos/x", "README.md", "_atlas/epochs/x")


@pytest.mark.parametrize("key", TAKEN)
def test_documents_do_not_touch_tables_card_or_bookkeeping(vault: Vault, key: str) -> None:
    vault.store.put_bytes(key, b"1")
    spellings = (
        key,
        vault.store.uri(key),
        f"./{key}",
        key.replace("/", "/./"),
        key.capitalize(),
        key.upper(),
        key.replace("s", "\u017f"),  # a letter that folds to s
        key.replace("/", " ./") if "/" in key else f"{key}. ",
        f"{key.split('/', 1)[0]}/deeper/still",
        key.split("/", 1)[0],
    )
    for path in spellings:
        for write in (
            lambda path: vault.store_json(path, {}),
            lambda path: vault.store_binary(path, b"x"),
            lambda path: vault.store_batch([("b/new", b"1"), (path, b"x")]),
        ):
            with pytest.raises(InvalidInput) as caught:
                write(path)
            assert caught.value.field == "path"
    assert vault.fetch_json(key) == 1
    assert vault.list_files("b") == []
    # what only looks alike is free
    assert vault.store_binary("videos2/x", b"") and vault.store_binary("my/README.md", b"")


def test_composed_and_decomposed_names_are_one_object(vault: Vault) -> None:
    vault.store_binary("u\u0308.txt", b"1")
    assert vault.store.get_bytes("\u00fc.txt") == b"1"
    assert vault.list_files() == ["\u00fc.txt"]


def test_an_address_of_another_vault_is_refused(vault: Vault, tmp_path: Path) -> None:
    for other in (LocalVault(tmp_path / "other"), MemoryVault()):
        with pytest.raises(InvalidInput):
            vault.fetch_binary(other.store_binary("x", b""))
