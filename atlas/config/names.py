"""The names of the variables as attributes of the settings, for type checkers. Made by ``make docs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from pydantic import ByteSize, SecretStr

__all__ = ["SettingNames"]


class SettingNames:
    """``settings.DATABASE_URL`` beside ``settings.database_url``."""

    if TYPE_CHECKING:

        @property
        def ENV(self) -> str: ...

        @property
        def DATABASE_URL(self) -> SecretStr | None: ...

        @property
        def DATABASE_POOL_SIZE(self) -> int: ...

        @property
        def DATABASE_POOL_TIMEOUT(self) -> float: ...

        @property
        def DATABASE_POOL_MODE(self) -> Literal["session", "transaction"]: ...

        @property
        def ATLAS_HOME(self) -> Path: ...

        @property
        def VAULT_PROVIDER(self) -> Literal["huggingface", "gcs", "local", "memory"] | None: ...

        @property
        def VAULT_PREFIX(self) -> str: ...

        @property
        def HF_REPO_ID(self) -> str | None: ...

        @property
        def HF_TOKEN(self) -> SecretStr | None: ...

        @property
        def HF_COMMITS_PER_HOUR(self) -> int: ...

        @property
        def HF_BATCH_SECONDS(self) -> float: ...

        @property
        def GCS_BUCKET_NAME(self) -> str | None: ...

        @property
        def GOOGLE_APPLICATION_CREDENTIALS(self) -> Path | None: ...

        @property
        def YOUTUBE_API_KEY_POOL_JSON(self) -> SecretStr | None: ...

        @property
        def COMPLIANCE_MODE(self) -> bool: ...

        @property
        def KEY_POOL_ARCHEOLOGY_SIZE(self) -> int: ...

        @property
        def KEY_POOL_TRACKING_SIZE(self) -> int: ...

        @property
        def YOUTUBE_QUOTA_JSON(self) -> str | None: ...

        @property
        def YOUTUBE_API_URL(self) -> str: ...

        @property
        def HYDRA_RETRY_ATTEMPTS(self) -> int: ...

        @property
        def HYDRA_BACKOFF_FACTOR(self) -> float: ...

        @property
        def HYDRA_MAX_WAIT_SECONDS(self) -> float: ...

        @property
        def JANITOR_ENABLED(self) -> bool: ...

        @property
        def JANITOR_RETENTION_DAYS(self) -> int: ...

        @property
        def JANITOR_SAFETY_CHECK(self) -> bool: ...

        @property
        def JANITOR_UNFINISHED_DAYS(self) -> int | None: ...

        @property
        def HOT_MAX_BYTES(self) -> ByteSize: ...

        @property
        def TRACKING_SAMPLES_PER_DAY(self) -> int | None: ...

        @property
        def WATCHLIST_VAULT_MONTHS(self) -> int: ...

        @property
        def WATCHLIST_ON_INGEST(self) -> bool: ...

        @property
        def STATS_PARTITION_HOURS(self) -> Literal[1, 2, 3, 4, 6, 8, 12, 24]: ...

        @property
        def SEARCH_REVIVE_DAYS(self) -> int: ...

        @property
        def EVENT_BUS_ENABLED(self) -> bool: ...

        @property
        def EVENT_BUS_WEBHOOK_URL(self) -> SecretStr | None: ...

        @property
        def EVENT_BUS_WEBHOOK_SECRET(self) -> SecretStr | None: ...

        @property
        def EVENT_BUS_FILTER(self) -> str: ...

        @property
        def EVENT_BUS_ALLOW_PRIVATE(self) -> bool: ...

        @property
        def EVENT_BUS_RETENTION_DAYS(self) -> int: ...

        @property
        def EVENT_BUS_RETENTION_MAX_DAYS(self) -> int: ...

        @property
        def DISCORD_WEBHOOK_ALERTS(self) -> SecretStr | None: ...

        @property
        def DISCORD_WEBHOOK_HUNT(self) -> SecretStr | None: ...

        @property
        def DISCORD_WEBHOOK_SURVEILLANCE(self) -> SecretStr | None: ...

        @property
        def DISCORD_WEBHOOK_OPS(self) -> SecretStr | None: ...

        @property
        def DISCORD_ALLOW_OTHER_HOSTS(self) -> bool: ...

        @property
        def APPRISE_URLS(self) -> SecretStr | None: ...

        @property
        def SENTRY_DSN(self) -> SecretStr | None: ...

        @property
        def LOG_LEVEL(self) -> Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]: ...

        @property
        def LOG_FORMAT(self) -> Literal["console", "json"]: ...

        @property
        def HF_DATASET_ID(self) -> str | None: ...

        @property
        def API_KEYS(self) -> list[str]: ...

        @property
        def KEY_RINGS(self) -> dict[str, list[str]]: ...
