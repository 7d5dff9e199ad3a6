"""Where a vault lies, as a value that can be handed to another process."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas.vault import LocalVault, Vault
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.huggingface import HuggingFaceStore
from atlas.vault.stores.retrying import PatientStore
from tests.support.servers import gcs_proxy, hub_server

# read by the client when it is imported: uploads by plain HTTP, and no calls home
os.environ.update(HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")


@dataclass(frozen=True)
class Place:
    """A vault of a provider: ``where`` is a folder, or the address of a test server."""

    provider: str
    where: str
    #: Where its spool lies.
    home: Path
    prefix: str = ""

    def text(self) -> str:
        """As JSON, for another process."""
        return json.dumps({**asdict(self), "home": str(self.home)})

    @classmethod
    def read(cls, text: str) -> Place:
        """From `text`."""
        said = json.loads(text)
        return cls(**{**said, "home": Path(said["home"])})

    def vault(self) -> Vault:
        """A vault there; each call gives one that shares nothing with the others."""
        match self.provider:
            case "local":
                return LocalVault(self.where, home=self.home)
            case "gcs":
                store = GCSStore(gcs_proxy.BUCKET, self.prefix, token="anon", endpoint=self.where)
                return Vault(PatientStore(store), self.home)
            case "huggingface":
                hub = HuggingFaceStore(
                    hub_server.REPO, self.prefix, token=hub_server.TOKEN, endpoint=self.where
                )
                return Vault(PatientStore(hub), self.home)
        raise ValueError(self.provider)
