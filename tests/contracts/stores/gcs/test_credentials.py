"""The key file that requests to Google Cloud Storage are signed with."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.config import Settings
from atlas.errors import VaultDenied
from atlas.vault import GCSVault
from tests.support.impatience import FOR_EVER
from tests.support.servers import gcs_proxy
from tests.support.servers.gcs_proxy import Gcs
from tests.support.servers.http import Reply
from tests.support.stores import close


def with_key(gcs: Gcs, path: Path, home: Path) -> GCSVault:
    settings = Settings(
        gcs_bucket_name=gcs_proxy.BUCKET,
        google_application_credentials=path,
        atlas_home=home,
        vault_prefix=f"run/{home.name}",
    )
    return GCSVault(settings=settings, endpoint=gcs.url)


def test_a_key_file_of_the_settings_is_what_requests_are_signed_with(
    gcs: Gcs, key_file: Path, tmp_path: Path
) -> None:
    vault = with_key(gcs, key_file, tmp_path)
    try:
        vault.store_json("x.json", 1)
        assert vault.fetch_json("x.json") == 1
        assert vault.append_metrics([{"video_id": "V", "views": 1}]) == 1
        assert gcs.counts["token"] == 1
    finally:
        close(vault.store)


def test_a_key_that_was_revoked_is_denied_and_says_which_setting(
    gcs: Gcs, key_file: Path, tmp_path: Path
) -> None:
    vault = with_key(gcs, key_file, tmp_path)
    gcs.faults["token"].extend([Reply(400, b'{"error": "invalid_grant"}')] * FOR_EVER)
    try:
        with pytest.raises(VaultDenied):
            vault.fetch_json("x.json")
    finally:
        close(vault.store)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"type": "service_account"}'])
def test_a_key_file_that_is_missing_or_none_is_denied_without_asking_anybody(
    gcs: Gcs, tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no file gcsfs takes for a token, and asks Google about it."""
    asked: list[str] = []
    monkeypatch.setattr("gcsfs.credentials.requests.get", lambda url, **_: asked.append(url))
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    vault = with_key(gcs, path, tmp_path)
    with pytest.raises(VaultDenied) as caught:
        vault.fetch_json("x.json")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
    assert not gcs.counts
    assert not asked
