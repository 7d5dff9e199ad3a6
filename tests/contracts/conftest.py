"""One vault of each kind, empty."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.vault import LocalVault, MemoryVault, Vault
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.huggingface import HuggingFaceStore
from atlas.vault.stores.retrying import PatientStore
from tests.support.places import Place
from tests.support.servers import gcs_proxy, hub_server
from tests.support.servers.gcs_proxy import Gcs
from tests.support.servers.hub_server import Hub

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


@pytest.fixture
def hub_vault(hub: Hub, tmp_path: Path) -> Vault:
    """A vault in that repository."""
    store = HuggingFaceStore(hub_server.REPO, "run", token=hub_server.TOKEN, endpoint=hub.url)
    return Vault(PatientStore(store), tmp_path / "home")


@pytest.fixture(params=["local", "memory", "gcs", pytest.param("huggingface", marks=HUB_WARNS)])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "local":
        return LocalVault(tmp_path / "vault")
    if request.param == "memory":
        return MemoryVault()
    if request.param == "huggingface":
        found: Vault = request.getfixturevalue("hub_vault")
        return found
    return Vault(PatientStore(request.getfixturevalue("bucket")))


@pytest.fixture(params=["local", "gcs", pytest.param("huggingface", marks=HUB_WARNS)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a vault is that several processes can work on."""
    home, prefix = tmp_path / "home", f"run/{uuid.uuid4().hex}"
    if request.param == "local":
        return Place("local", str(tmp_path / "vault"), home)
    server = request.getfixturevalue("gcs" if request.param == "gcs" else "hub")
    return Place(request.param, server.url, home, prefix)


@pytest.fixture
def key_file(gcs: Gcs, tmp_path: Path) -> Path:
    """A service account's key file, as the console hands it out, and the service that knows its key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    gcs.account_key = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    gcs.bearer = "ya29.test"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "account.json"
    account = {
        "type": "service_account",
        "project_id": "atlas-test",
        "private_key_id": "k1",
        "private_key": private.decode(),
        "client_email": "atlas@atlas-test.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": f"{gcs.url}/token",
    }
    path.write_text(json.dumps(account))
    return path
