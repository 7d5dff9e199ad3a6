"""The live services, where the environment names them: one round trip, and nothing left behind."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from atlas.config import Settings
from atlas.errors import ObjectExists
from atlas.vault import GCSVault, HuggingFaceVault, Vault


@pytest.mark.smoke("HF_TOKEN", "HF_REPO_ID")
def test_hugging_face_takes_and_gives_back(tmp_path: Path) -> None:
    _round_trip(
        lambda prefix: HuggingFaceVault(prefix=prefix, settings=Settings(atlas_home=tmp_path))
    )


@pytest.mark.smoke("GCS_BUCKET_NAME")
def test_google_cloud_storage_takes_and_gives_back(tmp_path: Path) -> None:
    _round_trip(lambda prefix: GCSVault(prefix=prefix, settings=Settings(atlas_home=tmp_path)))


def _round_trip(make: Callable[[str], Vault]) -> None:
    vault = make(f"atlas-smoke/{uuid.uuid4().hex}")
    try:
        uri = vault.store_json("notes/a.json", {"ü": 1})
        assert vault.fetch_json("notes/a.json") == {"ü": 1}
        assert vault.fetch_binary(uri) is not None
        assert vault.fetch_json("notes/b.json") is None
        with pytest.raises(ObjectExists):
            vault.store.put_bytes("notes/a.json", b"2", overwrite=False)
        assert vault.store.compare_and_swap("swap", None, b"1")
        assert not vault.store.compare_and_swap("swap", None, b"2")
        assert vault.append_metrics([{"video_id": "smoke", "views": 1}]) == 1
        assert vault.pending().count == 0
        assert len(vault.list_files("metrics")) == 1
    finally:
        vault.store.delete(vault.list_files())
    assert vault.list_files() == []
