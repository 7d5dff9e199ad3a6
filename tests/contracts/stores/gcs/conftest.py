"""A vault on Google Cloud Storage, and the same place as another process has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from atlas.vault import Vault
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.retrying import PatientStore
from tests.support.impatience import no_pauses
from tests.support.servers import gcs_proxy
from tests.support.servers.gcs_proxy import Gcs
from tests.support.stores import close


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


@pytest.fixture
def vault(bucket: GCSStore, tmp_path: Path) -> Vault:
    return Vault(PatientStore(bucket), tmp_path / "home")


@pytest.fixture
def other(bucket: GCSStore, gcs: Gcs) -> Iterator[GCSStore]:
    """The same place, as another process has it."""
    with another(bucket, gcs) as store:
        yield store


class another:
    """A store with a client of its own, whose connections are closed at the end."""

    def __init__(self, bucket: GCSStore, gcs: Gcs) -> None:
        prefix = bucket._root.removeprefix(f"{gcs_proxy.BUCKET}/").rstrip("/")
        self.store = GCSStore(gcs_proxy.BUCKET, prefix, token="anon", endpoint=gcs.url)

    def __enter__(self) -> GCSStore:
        return self.store

    def __exit__(self, *_: object) -> None:
        close(self.store)
