"""The vault: cold tables and documents, on Hugging Face, Google Cloud Storage or a local folder.

``from atlas import vault; vault.store_json(...)`` and ``from atlas.vault import vault`` are the same: names
this module does not have are looked up on the default object. No name here may be one of `Vault`'s.
"""

from __future__ import annotations

from typing import Any

from atlas.config import Settings
from atlas.vault.facade import Vault
from atlas.vault.providers import (
    DefaultVault,
    GCSVault,
    HuggingFaceVault,
    LocalVault,
    MemoryVault,
    vault_of,
)
from atlas.vault.spool.metrics import Pending

__all__ = [
    "GCSVault",
    "HuggingFaceVault",
    "LocalVault",
    "MemoryVault",
    "Pending",
    "Vault",
    "get_vault",
    "vault",
]

#: The vault of the settings, which are read at its first use.
vault: Vault = DefaultVault()


def get_vault(settings: Settings | None = None) -> Vault:
    """The vault that ``settings`` name, or the default one. Raises `ConfigurationError`."""
    return vault if settings is None else vault_of(settings)


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(vault, name)
