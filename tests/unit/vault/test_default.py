"""The default vault, and which vault the settings name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import atlas
import atlas.vault
from atlas.config import Settings, reset_settings
from atlas.errors import ConfigurationError
from atlas.vault import GCSVault, HuggingFaceVault, LocalVault, MemoryVault, Vault, get_vault, vault


def test_both_spellings_are_one_object() -> None:
    from atlas import vault as module

    assert module is atlas.vault
    module.store_json("a.json", 1)
    assert vault.fetch_json("a.json") == 1
    assert get_vault() is vault
    assert module.store is vault.store


def test_a_patch_by_name_reaches_both_spellings() -> None:
    from atlas import vault as module

    with mock.patch("atlas.vault.vault.append_metrics") as patched:
        vault.append_metrics([])
        module.append_metrics([], date="2026-01-15")
    assert patched.call_count == 2
    assert vault.append_metrics([]) == 0


def test_no_name_of_the_module_hides_a_method() -> None:
    for name in (name for name in dir(Vault) if not name.startswith("_")):
        assert name not in vars(atlas.vault), name


def test_a_name_that_nobody_has_is_an_import_error() -> None:
    with pytest.raises(ImportError):
        from atlas.vault import (  # noqa: F401  # wrong on purpose
            nothing,
        )


def test_the_default_vault_is_that_of_the_settings_when_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vault.store_json("a.json", 1)
    assert (tmp_path / "home" / "vault" / "a.json").is_file()
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "second"))
    monkeypatch.setenv("VAULT_PREFIX", "in/side")
    reset_settings()
    vault.store_json("a.json", 2)
    assert (tmp_path / "second" / "vault" / "in" / "side" / "a.json").read_bytes() == b"2"
    vault.append_metrics([{"video_id": "V"}])
    assert (tmp_path / "second" / "spool").is_dir()
    assert not (tmp_path / "home" / "spool").exists()


def test_another_store_can_be_set_on_the_default_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    other = MemoryVault()
    with monkeypatch.context() as patch:
        patch.setattr(vault, "store", other.store)
        vault.store_json("a.json", 1)
        assert vault.identity == other.identity
    assert vault.fetch_json("a.json") is None
    assert other.fetch_json("a.json") == 1


def test_without_settings_in_production_nothing_is_written_to_a_throwaway_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENV", "prod")
    reset_settings()
    with pytest.raises(ConfigurationError):
        vault.store_json("a.json", 1)
    with pytest.raises(ConfigurationError):
        vault.append_metrics([{"video_id": "V"}])
    assert not (tmp_path / "home").exists()


def test_each_provider_has_its_class_and_identity(tmp_path: Path) -> None:
    found = get_vault(Settings(hf_repo_id="me/data", hf_token="hf_secret", vault_prefix="a/b"))
    assert isinstance(found, HuggingFaceVault)
    assert found.identity == "hf://datasets/me/data/a/b"
    assert found.store.uri("x") == "hf://datasets/me/data/a/b/x"
    assert "hf_secret" not in repr(found) + repr(found.store)
    found = get_vault(Settings(gcs_bucket_name="bucket"))
    assert isinstance(found, GCSVault)
    assert (found.identity, found.store.uri("x")) == ("gs://bucket", "gs://bucket/x")
    found = get_vault(Settings(vault_provider="local", atlas_home=tmp_path / "a b"))
    assert isinstance(found, LocalVault)
    assert found.identity == (tmp_path / "a b" / "vault").as_uri()
    found = get_vault(Settings(vault_provider="memory"))
    assert isinstance(found, MemoryVault)
    assert found.identity == "memory://atlas"
    for wrong in ("/abs", "../up", "a//b"):
        with pytest.raises(ConfigurationError, match="VAULT_PREFIX"):
            get_vault(Settings(gcs_bucket_name="bucket", vault_prefix=wrong))
    with pytest.raises(ConfigurationError):
        HuggingFaceVault()
    with pytest.raises(ConfigurationError, match="HF_TOKEN"):
        HuggingFaceVault("me/data")  # rows would wait on this machine's disk for ever
    with pytest.raises(ConfigurationError):
        GCSVault()


def test_importing_reads_no_settings_and_no_client_of_a_provider(tmp_path: Path) -> None:
    program = (
        "import sys, threading, atlas.vault\n"
        "assert not {'gcsfs', 'huggingface_hub', 'aiohttp'} & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "VAULT_PROVIDER": "nonsense"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
