"""One vault of each kind, empty."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.vault import LocalVault, MemoryVault, Vault
from atlas.vault.backends.gcs import GCSStore
from atlas.vault.backends.huggingface import HuggingFaceStore
from tests.contracts import gcs_server
from tests.support import hub_server
from tests.support.hub_server import Hub

# read by the client when it is imported: uploads by plain HTTP, and no calls home
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

#: The client itself passes ``data=`` to its HTTP library, which wants ``content=``.
HUB_WARNS = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture(scope="session")
def gcs_file_system() -> Iterator[tuple[str, Any]]:
    """The emulator's address and one gcsfs client for all tests: each client keeps connections open."""
    with gcs_server.running() as endpoint:
        yield endpoint, GCSStore(gcs_server.BUCKET, token="anon", endpoint=endpoint).fs


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub with one empty repository."""
    with hub_server.running() as hub:
        yield hub


@pytest.fixture(params=["local", "memory", "gcs", pytest.param("huggingface", marks=HUB_WARNS)])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "local":
        return LocalVault(tmp_path / "vault")
    if request.param == "memory":
        return MemoryVault()
    if request.param == "huggingface":
        hub: Hub = request.getfixturevalue("hub")
        store = HuggingFaceStore(hub_server.REPO, "run", token=hub_server.TOKEN, endpoint=hub.url)
        return Vault(store, tmp_path / "home")
    endpoint, file_system = request.getfixturevalue("gcs_file_system")
    prefix = f"run/{uuid.uuid4().hex}"
    bucket = GCSStore(gcs_server.BUCKET, prefix, token="anon", endpoint=endpoint)
    bucket.fs = file_system
    return Vault(bucket)
