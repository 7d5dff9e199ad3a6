"""What the store of Google Cloud Storage does when the service refuses, fails and does not answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atlas.errors import VaultDenied, VaultError, VaultUnavailable
from atlas.vault import Vault
from atlas.vault.stores import gcs as product
from atlas.vault.stores.gcs import GCSStore
from tests.contracts.stores.gcs.conftest import another
from tests.support.impatience import FOR_EVER
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply
from tests.support.stores import close


def calls(vault: Vault) -> list[tuple[str, Callable[[], Any]]]:
    """What a vault does, by the name of the request that fails first."""
    return [
        ("read", lambda: vault.fetch_json("absent.json")),
        ("stat", lambda: vault.store.stat("absent")),
        ("stat", lambda: vault.store.open("absent")),
        ("list", lambda: vault.list_files()),
        ("upload", lambda: vault.store_json("x.json", 1)),
        ("upload", lambda: vault.store.put_bytes("y", b"1", overwrite=False)),
        ("upload", lambda: vault.store.compare_and_swap("z", None, b"1")),
        ("delete", lambda: vault.store.delete(["x.json"])),
    ]


BUSY = [refusal(503), refusal(429, retry_after="0"), refusal(500), Reply(cut=True)]


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "cut"])
def test_a_service_that_is_busy_for_a_moment_is_asked_again(
    vault: Vault, gcs: Gcs, fault: Reply
) -> None:
    for name, call in calls(vault):
        gcs.faults[name].append(fault)
        call()
        assert not gcs.faults[name]
    assert sorted(vault.list_files()) == ["y", "z"]


@pytest.mark.parametrize("fault", BUSY, ids=["503", "429", "500", "cut"])
def test_a_service_that_stays_busy_is_a_failure_and_never_a_missing_object(
    vault: Vault, gcs: Gcs, fault: Reply
) -> None:
    for name, call in calls(vault):
        gcs.faults[name].extend([fault] * FOR_EVER)
        with pytest.raises(VaultUnavailable):
            call()
        gcs.faults[name].clear()
    assert vault.list_files() == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_of_the_credentials_fails_at_once(vault: Vault, gcs: Gcs, status: int) -> None:
    for name, call in calls(vault):
        gcs.counts.clear()
        gcs.faults[name].extend([refusal(status, "no access")] * FOR_EVER)
        with pytest.raises(VaultDenied) as caught:
            call()
        assert gcs.counts[name] == 1
        assert caught.value.hint
        gcs.faults[name].clear()


def test_a_missing_bucket_is_told_by_its_name(vault: Vault, gcs: Gcs, tmp_path: Path) -> None:
    store = GCSStore("no-such-bucket", token="anon", endpoint=gcs.url)
    try:
        for name, call in calls(Vault(store, tmp_path / "other")):
            if name == "delete":
                continue  # of what is not there nothing has to be removed
            with pytest.raises(VaultError, match="no-such-bucket"):
                call()
    finally:
        close(store)


@pytest.mark.parametrize("name", ["read", "stat", "list", "upload", "delete"])
def test_a_service_that_does_not_answer_is_given_up(
    bucket: GCSStore, gcs: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(product, "_SILENCE_SECONDS", 0.1)
    with another(bucket, gcs) as store:
        (call,) = [call for what, call in calls(Vault(store, tmp_path)) if what == name][:1]
        gcs.faults[name].extend([Reply(hang=True)] * FOR_EVER)
        with pytest.raises(VaultUnavailable):
            call()
