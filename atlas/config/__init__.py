"""Settings, read from the environment and ``.env`` on first use, frozen afterwards."""

from __future__ import annotations

from atlas.config.keys import ApiKey, QuotaBucket
from atlas.config.settings import Settings, get_settings, reset_settings, settings

__all__ = ["ApiKey", "QuotaBucket", "Settings", "get_settings", "reset_settings", "settings"]
