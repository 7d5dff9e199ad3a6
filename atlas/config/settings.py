"""Settings, read from the environment and ``.env`` on first use, frozen afterwards.

`get_settings` returns the one instance of the process; `settings` is an object that forwards to it
and reads nothing until an attribute is asked for. `Settings(...)` takes field names and variable
names alike, for programs that bring their own configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from atlas.config.keys import ApiKey, QuotaBucket, parse_keys, parse_quota, split_keys
from atlas.config.names import SettingNames
from atlas.errors import ConfigurationError

#: Environments in which the embedded database and the local vault may be used unasked.
THROWAWAY_ENVIRONMENTS = frozenset({"dev", "test"})


def _blank_is_unset(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _secret(value: Any) -> Any:
    value = _blank_is_unset(value)
    return SecretStr(value.strip()) if isinstance(value, str) else value


def _secret_line(value: Any) -> Any:
    """A secret that goes into one line of a request: a line break in it would fail there, unexplained."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and text.strip() and not text.strip(" ").isprintable():
        raise ValueError(
            "has a line break or another control character in it or behind it; remove that"
        )
    return _secret(value)


Text = Annotated[str | None, BeforeValidator(_blank_is_unset)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]
SecretLine = Annotated[SecretStr | None, BeforeValidator(_secret_line)]


class Settings(SettingNames, BaseSettings):
    """Every setting of Atlas. Variables are the field names in capitals unless noted.

    Variables' own names work as attributes too: ``settings.DATABASE_URL``.

    Raises `ConfigurationError` naming the variable, what it got with secrets masked, and what it
    takes.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    # -- Environment
    #: ``dev``, ``test``, ``prod`` or a name of your own. Only ``dev`` and ``test`` may use an embedded
    #: PostgreSQL and a local vault unasked; anywhere else what is missing is an error.
    env: str = "prod"
    # -- Database
    #: ``postgres://`` or ``postgresql://``, as your provider hands it out; sslmode, channel_binding,
    #: application_name, connect_timeout, target_session_attrs and several hosts work.
    database_url: SecretLine = None
    #: Connections that a process keeps open.
    database_pool_size: int = Field(5, ge=1, le=1000)
    #: Seconds that a caller waits for a connection while all are in use.
    database_pool_timeout: float = Field(30.0, gt=0, le=3600)
    #: ``transaction`` behind PgBouncer or another pooler in transaction mode.
    database_pool_mode: Literal["session", "transaction"] = "session"
    #: Where the embedded database, the local vault, the spool and temporary files lie.
    atlas_home: Path = Field(default_factory=lambda: _data_home())

    # -- Vault
    #: Unset: by which of HF_REPO_ID and GCS_BUCKET_NAME is set; with ``dev`` and ``test`` else ``local``.
    vault_provider: Literal["huggingface", "gcs", "local", "memory"] | None = None
    #: A folder inside the repository or bucket; each database needs one of its own.
    vault_prefix: str = ""
    #: Dataset repository of the Hugging Face Hub, ``user/name``; HF_DATASET_ID is another name for it.
    hf_repo_id: Text = Field(None, validation_alias=AliasChoices("HF_REPO_ID", "HF_DATASET_ID"))
    #: Token with write access to that repository.
    hf_token: SecretLine = None
    #: Commits that the machines sharing one ATLAS_HOME may try; the Hub takes 128 from all of them.
    hf_commits_per_hour: int = Field(100, ge=1)
    #: Seconds that appended rows and documents wait for company, to go in one commit; 0: none waits.
    hf_batch_seconds: float = Field(60.0, ge=0)
    #: Bucket of Google Cloud Storage, its name alone.
    gcs_bucket_name: Text = None
    #: Key file for the bucket; unset: Google's default credentials.
    google_application_credentials: Path | None = None

    # -- API keys
    #: A JSON list of keys, or of {"key": ..., "project": ...}: keys of one project share one quota.
    youtube_api_key_pool_json: Secret = None
    #: Only the first key is used. Pooling keys of several projects can breach the API's terms.
    compliance_mode: bool = True
    #: Archeology takes so many of the last keys.
    key_pool_archeology_size: int = Field(1, ge=0)
    #: Tracking takes so many of those before; hunting has the rest.
    key_pool_tracking_size: int = Field(1, ge=0)
    #: Buckets of quota a day: {"search": {"limit": 100, "cost": 1}}, or {"search": 100}.
    youtube_quota_json: Text = None
    #: Where the YouTube Data API is asked by `atlas keys test`.
    youtube_api_url: str = "https://www.googleapis.com/youtube/v3"
    #: Attempts of one request in all.
    hydra_retry_attempts: int = Field(3, ge=1)
    #: By how much the pause between attempts grows.
    hydra_backoff_factor: float = Field(2.0, ge=1)
    #: Seconds that one request may wait for its turn, for a free window or for a service that is down.
    hydra_max_wait_seconds: float = Field(150.0, ge=0)

    # -- Retention
    #: Whether the janitor deletes finished videos.
    janitor_enabled: bool = True
    #: Days that samples and finished videos stay in PostgreSQL.
    janitor_retention_days: int = Field(7, ge=1, le=36_500)
    #: Delete only videos with transcript and visuals whose rows were read back from the vault.
    janitor_safety_check: bool = True
    janitor_unfinished_days: int | None = Field(default=None, ge=1)
    """Days after which a video that is not DONE is given up and removed like a finished one; None: never."""
    #: Budget of the hot stats in bytes, sealed slices included.
    hot_max_bytes: ByteSize = Field(ByteSize(200_000_000), ge=1_000_000)
    tracking_samples_per_day: int | None = Field(default=None, ge=1)
    """Bound of the samples that workers claim in a UTC day; None: there is none."""
    watchlist_vault_months: int = Field(default=12, ge=0)
    """Months after publication after which the vault keeps slow videos' places, if many; 0: never."""
    watchlist_on_ingest: bool = False
    """Whether a video that is ingested for the first time is put on the watchlist, too."""
    #: Hours of samples in one partition: what is archived at a time.
    stats_partition_hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 6
    #: Days after which the janitor has an exhausted search term searched for again.
    search_revive_days: int = Field(30, ge=1, le=3650)

    # -- Events
    #: False: events are neither recorded nor delivered.
    event_bus_enabled: bool = True
    #: Where events are posted.
    event_bus_webhook_url: Secret = None
    #: ``whsec_`` and the base64 of 24 to 64 bytes, as Standard Webhooks has it.
    event_bus_webhook_secret: Secret = None
    #: Comma-separated glob patterns of the types that are posted.
    event_bus_filter: str = "*"
    #: Whether the webhook may be at a private, loopback or link-local address outside dev and test.
    event_bus_allow_private: bool = False
    #: Days for which events are kept, and for which at most while somebody has still to read them.
    event_bus_retention_days: int = Field(7, ge=1, le=365)
    event_bus_retention_max_days: int = Field(30, ge=1, le=365)

    # -- Discord
    #: Webhook of the alerts, and of every channel that has none.
    discord_webhook_alerts: Secret = None
    #: Webhook of the hunters' channel.
    discord_webhook_hunt: Secret = None
    #: Webhook of the trackers' channel.
    discord_webhook_surveillance: Secret = None
    #: Webhook of the operators' channel.
    discord_webhook_ops: Secret = None
    #: Whether these may be elsewhere than at Discord (a relay of your own) outside dev and test.
    discord_allow_other_hosts: bool = False

    # -- Other ways out
    #: Addresses of Apprise, with white space between them, that get every message too (extra ``apprise``).
    apprise_urls: Secret = None
    #: Project of Sentry, or of what speaks its protocol, that tracked errors go to too (extra ``sentry``).
    sentry_dsn: Secret = None

    # -- Logging of the command line
    #: The least level that is shown; unset: WARNING.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    #: ``json``: one document a line.
    log_format: Literal["console", "json"] = "console"

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_capitals(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("vault_provider", "log_format", mode="before")
    @classmethod
    def _choice_in_small_letters(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("stats_partition_hours", mode="before")
    @classmethod
    def _hours_as_number(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.strip().isdigit() else value

    @field_validator("vault_prefix")
    @classmethod
    def _prefix_lies_inside(cls, value: str) -> str:
        names = value.strip().rstrip("/").split("/") if value.strip() else []
        wrong = not value.isprintable() or "\\" in value
        if wrong or any(name in ("", "..") or name.startswith(".") for name in names):
            raise ValueError("takes a folder inside the repository or bucket, such as runs/2026")
        return "/".join(names)

    @field_validator("gcs_bucket_name", "hf_repo_id")
    @classmethod
    def _name_and_no_address(cls, value: str | None) -> str | None:
        if value is not None and (":" in value or not value.isprintable() or " " in value):
            raise ValueError("takes the name alone, without gs://, hf:// or https://")
        return value

    @field_validator("google_application_credentials", mode="before")
    @classmethod
    def _path_and_no_key(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            check_key_path(value)
        return value

    @field_validator("youtube_api_key_pool_json")
    @classmethod
    def _key_pool_is_readable(cls, value: SecretStr | None) -> SecretStr | None:
        parse_keys(value)
        return value

    @field_validator("youtube_quota_json")
    @classmethod
    def _quota_is_readable(cls, value: str | None) -> str | None:
        parse_quota(value)
        return value

    @model_validator(mode="after")
    def _one_vault(self) -> Self:
        if self.vault_provider is None and self.hf_repo_id and self.gcs_bucket_name:
            raise ValueError(
                "VAULT_PROVIDER: both HF_REPO_ID and GCS_BUCKET_NAME are set; "
                "say which with VAULT_PROVIDER=huggingface or gcs"
            )
        return self

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _configuration_error(error) from None

    if not TYPE_CHECKING:  # a type checker has them from `SettingNames`

        def __getattr__(self, name: str) -> Any:
            """The setting of a variable's name."""
            field = "hf_repo_id" if name == "HF_DATASET_ID" else name.lower()
            if name.isupper() and field in _NAMED:
                return getattr(self, field)
            return super().__getattr__(name)

    @property
    def api_keys(self) -> list[str]:
        """The keys that may be used, in the clear: under COMPLIANCE_MODE only the first."""
        keys = [key.get_secret_value() for key in self.youtube_api_keys]
        return keys[:1] if self.compliance_mode else keys

    @property
    def key_rings(self) -> dict[str, list[str]]:
        """The keys in the clear of ``hunting``, ``tracking`` and ``archeology``.

        Archeology has the last KEY_POOL_ARCHEOLOGY_SIZE keys, tracking the KEY_POOL_TRACKING_SIZE before
        them, hunting the rest; where no key would be left for hunting all share the whole list.
        """
        sizes = self.key_pool_archeology_size, self.key_pool_tracking_size
        return {pool: list(keys) for pool, keys in split_keys(self.api_keys, *sizes).items()}

    @property
    def throwaway(self) -> bool:
        """Whether embedded and local defaults may be used (``ENV`` is ``dev`` or ``test``)."""
        return self.env.lower() in THROWAWAY_ENVIRONMENTS

    @property
    def vault(self) -> Literal["huggingface", "gcs", "local", "memory"]:
        """The vault provider, inferred where ``VAULT_PROVIDER`` is unset.

        Raises `ConfigurationError` where nothing says which, or what the provider needs is missing.
        """
        provider = self.vault_provider
        if provider is None:
            if self.hf_repo_id:
                provider = "huggingface"
            elif self.gcs_bucket_name:
                provider = "gcs"
            elif self.throwaway:
                provider = "local"
            else:
                raise ConfigurationError(
                    "no vault is configured",
                    hint="set VAULT_PROVIDER and HF_REPO_ID or GCS_BUCKET_NAME (ENV=dev uses a local folder)",
                )
        needed: dict[str, dict[str, object]] = {
            "huggingface": {"HF_REPO_ID": self.hf_repo_id, "HF_TOKEN": self.hf_token},
            "gcs": {"GCS_BUCKET_NAME": self.gcs_bucket_name},
        }
        missing = " and ".join(
            name for name, value in needed.get(provider, {}).items() if not value
        )
        if missing:
            raise ConfigurationError(f"the vault {provider} needs {missing}", hint=f"set {missing}")
        return provider

    @property
    def youtube_quota(self) -> Mapping[str, QuotaBucket]:
        """The quota buckets of a project by name: the defaults, changed by ``YOUTUBE_QUOTA_JSON``."""
        return parse_quota(self.youtube_quota_json)

    @property
    def youtube_api_keys(self) -> tuple[ApiKey, ...]:
        """The keys of ``YOUTUBE_API_KEY_POOL_JSON`` in order, each once; all of them, whatever the mode."""
        return parse_keys(self.youtube_api_key_pool_json)


def _data_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("atlas", appauthor=False))


def check_key_path(value: str | Path) -> None:
    """Raise `ConfigurationError` where ``value`` is a key itself and not the path of its file."""
    text = str(value).strip()
    # also in base64, as some platforms hand a key over: no path is that long
    encoded = text.startswith(("eyJ", "ewo")) and len(text) > 200
    if text.startswith("{") or "PRIVATE KEY" in text or encoded or len(text) > 4096:
        raise ConfigurationError(
            "GOOGLE_APPLICATION_CREDENTIALS: got a masked value; takes the path of a key file, not what is "
            "in it",
            hint="write the key to a file that only this user can read, and set its path",
        )


def _configuration_error(error: ValidationError) -> ConfigurationError:
    """One message for every wrong variable. Values of secret fields are never shown."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ")
        if not name or message.startswith(f"{name.upper()}: "):
            parts.append(message)
            continue
        field = next((f for n, f in Settings.model_fields.items() if n == name.lower()), None)
        given = problem.get("input")
        secret = field is None or "SecretStr" in repr(field.annotation)
        got = "a masked value" if secret else repr(given)
        parts.append(f"{name.upper()}: got {got}; {message}")
    return ConfigurationError("; ".join(parts), hint="correct it in the environment or in .env")


#: What answers by its variable's name.
_NAMED = frozenset({*Settings.model_fields, "api_keys", "key_rings"})


@functools.lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once. Raises `ConfigurationError`."""
    return Settings()


def reset_settings() -> None:
    """Forget the settings that were read, so that the next use reads the environment again."""
    get_settings.cache_clear()


class _LazySettings:
    """Forwards to `get_settings` on first use; frozen like what it stands for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(get_settings(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen: cannot set {name}")

    def __repr__(self) -> str:
        return repr(get_settings())


#: The settings of this process, by field name or variable name; read at the first attribute asked for.
settings = cast(Settings, _LazySettings())
