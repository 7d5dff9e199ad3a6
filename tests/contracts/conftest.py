"""One vault of each kind, empty."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.vault import LocalVault, MemoryVault, Vault
from atlas.vault.backends.gcs import GCSStore
from tests.contracts import gcs_server


@pytest.fixture(scope="session")
def gcs_file_system() -> Iterator[tuple[str, Any]]:
    """The emulator's address and one gcsfs client for all tests: each client keeps connections open."""
    with gcs_server.running() as endpoint:
        yield endpoint, GCSStore(gcs_server.BUCKET, token="anon", endpoint=endpoint).fs


@pytest.fixture(params=["local", "memory", "gcs"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "local":
        return LocalVault(tmp_path / "vault")
    if request.param == "memory":
        return MemoryVault()
    endpoint, file_system = request.getfixturevalue("gcs_file_system")
    prefix = f"run/{uuid.uuid4().hex}"
    store = GCSStore(gcs_server.BUCKET, prefix, token="anon", endpoint=endpoint)
    store.fs = file_system
    return Vault(store)
