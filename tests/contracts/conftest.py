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
from tests.support import gcs_proxy, hub_server
from tests.support.gcs_proxy import Gcs
from tests.support.hub_server import Hub

# read by the client when it is imported: uploads by plain HTTP, and no calls home
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")

#: The client itself passes ``data=`` to its HTTP library, which wants ``content=``.
HUB_WARNS = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture(scope="session")
def gcs_service() -> Iterator[tuple[Gcs, Any]]:
    """The service and one gcsfs client for all tests: each client keeps connections open."""
    with gcs_proxy.running() as gcs:
        yield gcs, GCSStore(gcs_proxy.BUCKET, token="anon", endpoint=gcs.url).fs


@pytest.fixture
def gcs(gcs_service: tuple[Gcs, Any]) -> Gcs:
    """Google Cloud Storage without faults; what other tests stored is there too."""
    gcs, _ = gcs_service
    gcs.reset()
    return gcs


@pytest.fixture
def bucket(gcs: Gcs, gcs_service: tuple[Gcs, Any]) -> GCSStore:
    """A store on it with a prefix of its own."""
    prefix = f"run/{uuid.uuid4().hex}"
    bucket = GCSStore(gcs_proxy.BUCKET, prefix, token="anon", endpoint=gcs.url)
    bucket.fs = gcs_service[1]
    return bucket


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
    return Vault(request.getfixturevalue("bucket"))
