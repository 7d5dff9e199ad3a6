"""Atlas: tiered storage and work coordination for what a platform learns about millions of videos.

Importing it reads no environment, opens nothing and configures nothing; names resolve on first use.
"""

from __future__ import annotations

import importlib
import logging as _logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # the default objects, whose methods the modules of these names answer to: a type checker sees both
    # spellings, `from atlas import vault` and `from atlas.vault import vault`, as the same
    from atlas.adapters.maia import MaiaDAO
    from atlas.archive import Archiver
    from atlas.config import settings
    from atlas.db import Database, db
    from atlas.errors import AtlasError
    from atlas.events import events
    from atlas.notifications import notifier
    from atlas.reader import StatsReader
    from atlas.scheduling import Work
    from atlas.types import AlertChannel, AlertLevel
    from atlas.vault import vault

    __version__: str

__all__ = [
    "AlertChannel",
    "AlertLevel",
    "Archiver",
    "AtlasError",
    "Database",
    "MaiaDAO",
    "StatsReader",
    "Work",
    "__version__",
    "db",
    "events",
    "notifier",
    "settings",
    "vault",
]

# silent until the program asks: without it what nobody handles goes to standard error
_logging.getLogger(__name__).addHandler(_logging.NullHandler())

_HOME = {
    "AlertChannel": "atlas.types",
    "AlertLevel": "atlas.types",
    "Archiver": "atlas.archive",
    "AtlasError": "atlas.errors",
    "Database": "atlas.db",
    "MaiaDAO": "atlas.adapters.maia",
    "StatsReader": "atlas.reader",
    "Work": "atlas.scheduling",
    "notifier": "atlas.notifications",
    "settings": "atlas.config",
}
_MODULES = frozenset({"db", "events", "vault"})


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        return importlib.import_module(f"atlas.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("pleiades-atlas")
    else:
        raise AttributeError(f"module 'atlas' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
