"""Reading an object of known size: no request but for the bytes, and no wrong byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from atlas.errors import CorruptObject, VaultError
from atlas.types import ObjectStore
from atlas.vault import Vault
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.huggingface import HuggingFaceStore
from tests.support.servers.http import Reply, Request, loopback_server

CONTENT = bytes(range(256)) * 40


def read(store: ObjectStore, key: str, size: int, start: int, end: int) -> bytes | None:
    source = store.open(key, size)
    if source is None:
        return None
    with source:
        source.seek(start)
        return source.read(end - start)


def test_ranges_are_those_of_the_object(vault: Vault) -> None:
    vault.store_binary("a", CONTENT)
    for start, end in ((0, 5), (300, 1_000), (len(CONTENT) - 8, len(CONTENT))):
        assert read(vault.store, "a", len(CONTENT), start, end) == CONTENT[start:end]


def test_a_missing_object_is_told_when_it_is_opened_or_read(vault: Vault) -> None:
    try:
        assert read(vault.store, "absent", 10, 0, 10) is None
    except VaultError as error:
        assert "not in the vault" in str(error)  # noqa: PT017  # either way is allowed


@pytest.mark.parametrize("difference", [-3, 3])
def test_an_object_of_another_size_gives_no_wrong_bytes(vault: Vault, difference: int) -> None:
    vault.store_binary("a", CONTENT)
    size = len(CONTENT) + difference
    try:
        tail = read(vault.store, "a", size, size - 8, size)
    except CorruptObject:
        return
    except VaultError:
        assert difference > 0
        return
    # a store that is not asked for the size gives what lies there: no end of a Parquet file
    assert tail == CONTENT[size - 8 : size]
    assert difference < 0


def test_google_is_asked_for_the_bytes_alone(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(vault.store, GCSStore):
        pytest.skip("counts requests of Google Cloud Storage")
    vault.store_binary("a", CONTENT)
    monkeypatch.setattr(vault.store, "_entry", _refuse)
    assert read(vault.store, "a", len(CONTENT), 5, 9) == CONTENT[5:9]


def _refuse(key: str) -> None:
    raise AssertionError(f"{key} was looked up")


def hub(asked: list[Request]) -> Callable[[Request], Reply]:
    """A Hub with one file, pre/a."""

    def respond(request: Request) -> Reply:
        asked.append(request)
        if request.path != "/datasets/me/data/resolve/main/pre/a":
            return Reply(404, headers={"X-Error-Code": "EntryNotFound"})
        first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        return Reply(206, CONTENT[first : last + 1])

    return respond


def test_the_hub_is_asked_once_a_range() -> None:
    asked: list[Request] = []
    with loopback_server() as server:
        server.respond = hub(asked)
        store = HuggingFaceStore("me/data", "pre", token="hf_secret", endpoint=server.url)
        for start, end in ((0, 5), (300, 1_000)):
            assert read(store, "a", len(CONTENT), start, end) == CONTENT[start:end]
        assert [one.method for one in asked] == ["GET", "GET"]
        assert asked[0].headers["authorization"] == "Bearer hf_secret"
        with pytest.raises(VaultError):
            read(store, "absent", 10, 0, 10)
        with pytest.raises(VaultError, match="asked for 8 bytes"):
            read(store, "a", len(CONTENT) + 5, len(CONTENT) - 3, len(CONTENT) + 5)
