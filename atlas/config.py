"""Settings, read from the environment and ``.env`` on first use, frozen afterwards.

`get_settings` returns the one instance of the process; `settings` is an object that forwards to it
and reads nothing until an attribute is asked for. `Settings(...)` takes field names and variable
names alike, for programs that bring their own configuration.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

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

from atlas.errors import ConfigurationError, InvalidInput
from atlas.setting_names import SettingNames

__all__ = ["ApiKey", "QuotaBucket", "Settings", "get_settings", "reset_settings", "settings"]

#: Environments in which the embedded database and the local vault may be used unasked.
THROWAWAY_ENVIRONMENTS = frozenset({"dev", "test"})


#: What no key holds, but text with several keys, or a broken list, does.
_SEPARATORS = re.compile(r"""[\s,;"'\[\]{}]""")


#: Pools of API keys, each for one kind of agent.
POOLS = ("hunting", "tracking", "archeology")
T = TypeVar("T")


class ApiKey(SecretStr):
    """An API key; ``project`` names the Google Cloud project whose quota it draws on, if known.

    Keys of one project share one quota; a key without a project is its own.
    """

    project: str | None

    def __init__(self, secret_value: str, project: str | None = None) -> None:
        super().__init__(secret_value)
        self.project = project


@dataclass(frozen=True, slots=True)
class QuotaBucket:
    """A bucket of a project's daily quota: ``limit`` units a Pacific day, ``cost`` of them a request."""

    limit: int
    cost: int = 1

    def __post_init__(self) -> None:
        for name in ("limit", "cost"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidInput(
                    f"{name} of a quota bucket must be a whole number of at least 1, got {value!r}",
                    field=name,
                    value=value,
                )


#: YouTube's defaults since June 2026.
DEFAULT_QUOTA = {
    "general": QuotaBucket(10_000),
    "search": QuotaBucket(100),
    "batch_stats": QuotaBucket(10_000),
    "upload": QuotaBucket(100),
}


def _blank_is_unset(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _secret(value: Any) -> Any:
    value = _blank_is_unset(value)
    return SecretStr(value.strip()) if isinstance(value, str) else value


Text = Annotated[str | None, BeforeValidator(_blank_is_unset)]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]


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

    env: str = "prod"
    database_url: Secret = None
    database_pool_size: int = Field(5, ge=1, le=1000)
    #: Seconds that a caller waits for a connection while all are in use.
    database_pool_timeout: float = Field(30.0, gt=0, le=3600)
    #: ``transaction`` behind PgBouncer or another pooler in transaction mode.
    database_pool_mode: Literal["session", "transaction"] = "session"
    atlas_home: Path = Field(default_factory=lambda: _data_home())

    vault_provider: Literal["huggingface", "gcs", "local", "memory"] | None = None
    vault_prefix: str = ""
    hf_repo_id: Text = Field(None, validation_alias=AliasChoices("HF_REPO_ID", "HF_DATASET_ID"))
    hf_token: Secret = None
    #: Commits that the machines sharing one ATLAS_HOME may try; the Hub takes 128 from all of them.
    hf_commits_per_hour: int = Field(100, ge=1)
    #: Seconds that appended rows and documents wait for company, to go in one commit; 0: none waits.
    hf_batch_seconds: float = Field(60.0, ge=0)
    gcs_bucket_name: Text = None
    google_application_credentials: Path | None = None

    youtube_api_key_pool_json: Secret = None
    compliance_mode: bool = True
    key_pool_archeology_size: int = Field(1, ge=0)
    key_pool_tracking_size: int = Field(1, ge=0)
    #: Buckets of quota a day: {"search": {"limit": 100, "cost": 1}}, or {"search": 100}.
    youtube_quota_json: Text = None
    #: Where the YouTube Data API is asked by `atlas keys test`.
    youtube_api_url: str = "https://www.googleapis.com/youtube/v3"
    hydra_retry_attempts: int = Field(3, ge=1)
    hydra_backoff_factor: float = Field(2.0, ge=1)
    #: Seconds that one request may wait for its turn, for a free window or for a service that is down.
    hydra_max_wait_seconds: float = Field(150.0, ge=0)

    janitor_enabled: bool = True
    janitor_retention_days: int = Field(7, ge=1, le=36_500)
    janitor_safety_check: bool = True
    janitor_unfinished_days: int | None = Field(default=None, ge=1)
    """Days after which a video that is not DONE is given up and removed like a finished one; None: never."""
    #: Budget of the hot stats in bytes, sealed slices included.
    hot_max_bytes: ByteSize = Field(ByteSize(200_000_000), ge=1_000_000)
    tracking_samples_per_day: int | None = Field(default=None, ge=1)
    """Bound of the samples that workers claim in a UTC day; None: there is none."""
    watchlist_on_ingest: bool = False
    """Whether a video that is ingested for the first time is put on the watchlist, too."""
    stats_partition_hours: Literal[1, 2, 3, 4, 6, 8, 12, 24] = 6
    #: Days after which the janitor has an exhausted search term searched for again.
    search_revive_days: int = Field(30, ge=1, le=3650)

    event_bus_enabled: bool = True
    event_bus_webhook_url: Secret = None
    event_bus_webhook_secret: Secret = None
    event_bus_filter: str = "*"
    #: Whether the webhook may be at a private, loopback or link-local address outside dev and test.
    event_bus_allow_private: bool = False
    #: Days for which events are kept, and for which at most while somebody has still to read them.
    event_bus_retention_days: int = Field(7, ge=1, le=365)
    event_bus_retention_max_days: int = Field(30, ge=1, le=365)

    discord_webhook_alerts: Secret = None
    discord_webhook_hunt: Secret = None
    discord_webhook_surveillance: Secret = None
    discord_webhook_ops: Secret = None

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
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

    @field_validator("youtube_api_key_pool_json")
    @classmethod
    def _key_pool_is_readable(cls, value: SecretStr | None) -> SecretStr | None:
        _parse_keys(value)
        return value

    @field_validator("youtube_quota_json")
    @classmethod
    def _quota_is_readable(cls, value: str | None) -> str | None:
        _parse_quota(value)
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
        return _parse_quota(self.youtube_quota_json)

    @property
    def youtube_api_keys(self) -> tuple[ApiKey, ...]:
        """The keys of ``YOUTUBE_API_KEY_POOL_JSON`` in order, each once; all of them, whatever the mode."""
        return _parse_keys(self.youtube_api_key_pool_json)


def _data_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("atlas", appauthor=False))


def _parse_keys(value: SecretStr | None) -> tuple[ApiKey, ...]:
    if value is None:
        return ()
    text = value.get_secret_value().strip()
    try:
        parsed = json.loads(text)
    except ValueError:
        if text[:1] in "[{":
            raise ValueError("is not valid JSON") from None
        parsed = text  # bare text is one key
    if not isinstance(parsed, list):
        parsed = [parsed] if isinstance(parsed, str) else [text]
    keys: dict[str, ApiKey] = {}
    for item in parsed:
        key, project = (
            (item.get("key"), item.get("project")) if isinstance(item, dict) else (item, None)
        )
        if not isinstance(key, str) or not (project is None or isinstance(project, str)):
            raise ValueError('takes a JSON list of keys or of {"key": ..., "project": ...}')
        if key.strip():
            add_key(keys, key.strip(), (project or "").strip() or None)
    return tuple(keys.values())


def add_key(keys: dict[str, ApiKey], key: str, project: str | None) -> None:
    """Add a key that is not there yet. Raises ValueError for what cannot be one, showing four characters."""
    if _SEPARATORS.search(key):
        raise ValueError('holds several keys in one text; takes a JSON list: ["key1", "key2"]')
    known = keys.setdefault(key, ApiKey(key, project))
    if project is not None and known.project not in (None, project):
        raise ValueError(f"the key that ends in {key[-4:]!r} is named under two projects")
    if known.project is None and project is not None:
        keys[key] = ApiKey(key, project)


@functools.lru_cache(maxsize=8)
def _parse_quota(text: str | None) -> Mapping[str, QuotaBucket]:
    try:
        given = json.loads(text) if text else {}
    except ValueError:
        raise ValueError("is not valid JSON") from None
    form = 'takes a JSON object such as {"search": {"limit": 100, "cost": 1}}'
    if not isinstance(given, dict):
        raise ValueError(form)
    found = dict(DEFAULT_QUOTA)
    for name, value in given.items():
        value = value if isinstance(value, dict) else {"limit": value}
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name) or not value.keys() <= {"limit", "cost"}:
            raise ValueError(f"{form}; names are of a-z, 0-9 and _")
        base = found.get(name)
        limit = value.get("limit", base.limit if base else 0)
        found[name] = QuotaBucket(limit, value.get("cost", base.cost if base else 1))
    return MappingProxyType(found)


def _configuration_error(error: ValidationError) -> ConfigurationError:
    """One message for every wrong variable. Values of secret fields are never shown."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ")
        if not name:
            parts.append(message)
            continue
        field = next((f for n, f in Settings.model_fields.items() if n == name.lower()), None)
        given = problem.get("input")
        secret = field is None or "SecretStr" in repr(field.annotation)
        got = "a masked value" if secret else repr(given)
        parts.append(f"{name.upper()}: got {got}; {message}")
    return ConfigurationError("; ".join(parts), hint="see ENV.example")


def split_keys(keys: Sequence[T], archeology: int, tracking: int) -> dict[str, Sequence[T]]:
    """The keys of each pool: the last ``archeology``, the ``tracking`` before them, hunting the rest.

    With no more than ``archeology + tracking`` keys every pool gets all of them.
    """
    rest = len(keys) - archeology - tracking
    if rest <= 0:
        return dict.fromkeys(POOLS, keys)
    return {
        "hunting": keys[:rest],
        "tracking": keys[rest : rest + tracking],
        "archeology": keys[rest + tracking :],
    }


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
