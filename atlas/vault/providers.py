"""The vault of each provider, and the one that the settings name."""

from __future__ import annotations

import shutil
import tempfile
import threading
import uuid
import weakref
from pathlib import Path
from urllib.parse import unquote

from atlas.config import Settings, get_settings
from atlas.config.settings import check_key_path
from atlas.errors import ConfigurationError, InvalidInput
from atlas.forks import renew_in_child
from atlas.types import ObjectStore
from atlas.vault.facade import Vault
from atlas.vault.layout import check_folder
from atlas.vault.spool.delivery import Outbox, Pace
from atlas.vault.spool.metrics import Spool
from atlas.vault.stores.commits import CommitBudget
from atlas.vault.stores.gcs import GCSStore
from atlas.vault.stores.huggingface import HuggingFaceStore
from atlas.vault.stores.local import LocalStore
from atlas.vault.stores.memory import MemoryStore
from atlas.vault.stores.retrying import PatientStore


class HuggingFaceVault(Vault):
    """A dataset repository of the Hugging Face Hub; what is left out comes from the settings."""

    def __init__(
        self,
        repo_id: str | None = None,
        token: str | None = None,
        prefix: str | None = None,
        *,
        endpoint: str | None = None,
        home: Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or get_settings()
        if token is None and settings.hf_token is not None:
            token = settings.hf_token.get_secret_value()
        prefix = settings.vault_prefix if prefix is None else prefix
        repo_id = repo_id or settings.hf_repo_id
        if not repo_id:
            raise ConfigurationError("no repository is named", hint="set HF_REPO_ID")
        if not token:
            # without one nothing could ever be written, and all that is stored would pile up here
            raise ConfigurationError(f"there is no token for {repo_id}", hint="set HF_TOKEN")
        home = home or settings.atlas_home
        # the Hub counts by repository, whatever the prefix
        budget = CommitBudget(home, repo_id, settings.hf_commits_per_hour)
        store = HuggingFaceStore(
            repo_id, prefix, token=token, endpoint=endpoint, budget=budget, card=True
        )
        pace = Pace.of_commits(settings.hf_batch_seconds, settings.hf_commits_per_hour)
        super().__init__(PatientStore(store), home, pace=pace)


class GCSVault(Vault):
    """A bucket of Google Cloud Storage; what is left out comes from the settings.

    ``credentials`` is the path of a key file; without one Google's default credentials are used.
    """

    def __init__(
        self,
        bucket_name: str | None = None,
        credentials: str | Path | None = None,
        prefix: str | None = None,
        *,
        endpoint: str | None = None,
        home: Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or get_settings()
        credentials = credentials or settings.google_application_credentials
        prefix = settings.vault_prefix if prefix is None else prefix
        bucket_name = bucket_name or settings.gcs_bucket_name
        if not bucket_name:
            raise ConfigurationError("no bucket is named", hint="set GCS_BUCKET_NAME")
        if credentials is not None:
            check_key_path(credentials)
        token = None if credentials is None else str(credentials)
        store = GCSStore(bucket_name, prefix, token=token, endpoint=endpoint)
        # nothing is limited there: only what the service does not take waits
        super().__init__(PatientStore(store), home or settings.atlas_home, pace=Pace())


class LocalVault(Vault):
    """A folder of this machine; the default is ``ATLAS_HOME/vault``."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        home: Path | None = None,
        settings: Settings | None = None,
    ) -> None:
        if path is None:
            settings = settings or get_settings()
            home = home or settings.atlas_home
            path = settings.atlas_home / "vault" / check_folder(settings.vault_prefix)
        super().__init__(LocalStore(path, card=True), home)


class MemoryVault(Vault):
    """Objects that live as long as the process; vaults of one name share them.

    What waits and what is remembered of it lives as long, in a temporary folder.
    """

    def __init__(self, name: str | None = None, prefix: str = "") -> None:
        home = Path(tempfile.mkdtemp(prefix="atlas-memory-"))
        super().__init__(MemoryStore(name or f"vault-{uuid.uuid4().hex}", prefix), home)
        weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)


def vault_of(settings: Settings) -> Vault:
    """The vault that the settings name. Raises `ConfigurationError`."""
    match settings.vault:
        case "huggingface":
            return HuggingFaceVault(settings=settings)
        case "gcs":
            return GCSVault(settings=settings)
        case "local":
            return LocalVault(settings=settings)
        case "memory":
            return MemoryVault("atlas", settings.vault_prefix)


class DefaultVault(Vault):
    """The vault of the current settings, which are read at its first use."""

    def __init__(self) -> None:
        self._unlock()
        renew_in_child(self, DefaultVault._unlock)
        self._settings: Settings | None = None
        self._vault: Vault | None = None

    def __repr__(self) -> str:
        return "<the default vault>"  # a repr reads no settings

    def _unlock(self) -> None:
        self._lock = threading.RLock()

    @property
    def store(self) -> ObjectStore:
        """The storage of the vault that the settings name."""
        return self._current().store

    @store.setter
    def store(self, store: ObjectStore) -> None:
        self._current().store = store

    @property
    def _pace(self) -> Pace | None:  # type: ignore[override]  # an attribute of other vaults
        return self._current()._pace

    def _spool(self) -> Spool:
        return self._current()._spool()

    def _outbox(self) -> Outbox | None:
        return self._current()._outbox()

    def _current(self) -> Vault:
        settings = get_settings()
        with self._lock:
            # settings that were reset are another object
            if self._vault is None or self._settings is not settings:
                self._vault, self._settings = vault_of(settings), settings
            return self._vault


def vault_at(where: str, settings: Settings | None = None) -> Vault:
    """The vault at an address (``hf://datasets/<repo>/<prefix>``, ``gs://<bucket>/<prefix>``,
    ``file:///<folder>``), or of the settings under another prefix. Raises `ConfigurationError`,
    `InvalidInput`."""
    settings = settings or get_settings()
    scheme, _, rest = where.partition("://")
    parts = rest.strip("/").split("/")
    if not rest:
        return vault_of(settings.model_copy(update={"vault_prefix": check_folder(where)}))
    match scheme:
        case "hf" if parts[0] == "datasets" and len(parts) >= 3:
            return HuggingFaceVault("/".join(parts[1:3]), prefix="/".join(parts[3:]))
        case "gs":
            return GCSVault(parts[0], prefix="/".join(parts[1:]))
        case "file":
            return LocalVault(unquote(f"/{rest.strip('/')}"), home=settings.atlas_home)
    raise InvalidInput(
        f"{where!r:.200} is no place of a vault",
        field="to",
        value=where,
        hint="give a prefix, hf://datasets/<repo>/<prefix>, gs://<bucket>/<prefix> or file:///<folder>",
    )
