"""Which paths and ids name an object, whatever holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.errors import InvalidInput, VaultError
from atlas.vault import LocalVault, Vault
from tests.contracts.test_metrics import row


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/abs",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "a\\b",
        "C:/x",
        "a\nb",
        "a\0b",
        "\x7f",
        ".hidden",
        "a/.x",
        "a" * 300,
        "a/" * 600 + "a",
        "a\u2028b",
        "\ud800",
        "https://example.org/x",
        "file:///etc/passwd",
        None,
        7,
        b"bytes",
    ],
)
def test_a_path_that_is_not_inside_is_refused_everywhere(vault: Vault, path: str) -> None:
    for call in (
        lambda: vault.store_json(path, {}),
        lambda: vault.store_binary(path, b""),
        lambda: vault.fetch_json(path),
        lambda: vault.fetch_binary(path),
        lambda: vault.store_batch([(path, b"")]),
        lambda: vault.store.put_bytes(path, b""),
        lambda: vault.store.open(path),
        lambda: vault.store.stat(path),
        lambda: vault.store.delete([path]),
        lambda: vault.store.compare_and_swap(path, None, b""),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert vault.list_files() == []


@pytest.mark.parametrize("video_id", ["", "../x", "a/b", "a.b", "ü", "x" * 65, None, 7, "a\n"])
def test_an_id_that_is_none_is_refused_everywhere(vault: Vault, video_id: str) -> None:
    for call in (
        lambda: vault.store_metadata(video_id, {}),
        lambda: vault.fetch_metadata(video_id, "2026-01-15"),
        lambda: vault.store_transcript(video_id, {}),
        lambda: vault.fetch_transcript(video_id),
        lambda: vault.store_visual_evidence(video_id, []),
        lambda: vault.fetch_visual_evidence(video_id),
        lambda: vault.append_metrics([row(video_id)]),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert vault.list_files() == []


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.text(st.sampled_from("ab./\\\0é:~ -_%C\u0301"), max_size=12) | st.text(max_size=20))
def test_any_text_is_refused_or_names_one_object_inside(tmp_path: Path, path: str) -> None:
    root = tmp_path / "inner" / "vault"
    vault = LocalVault(root)
    try:
        vault.store_binary(path, b"content")
    except (InvalidInput, VaultError):
        return
    (key,) = vault.list_files()
    assert vault.store.get_bytes(path) == vault.store.get_bytes(key) == b"content"
    written = [entry for entry in tmp_path.rglob("*") if entry.is_file() and entry.name != ".lock"]
    assert written == [root / key]
    vault.store.delete([key])
    assert vault.fetch_binary(path) is None
