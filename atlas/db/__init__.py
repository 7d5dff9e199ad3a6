"""PostgreSQL: the default database `db`, and `Database` for others.

``from atlas import db; await db.initialize()`` and ``from atlas.db import db`` are the same: names
that this module does not have are looked up on the default object. They resolve on first use, since
they bring SQLAlchemy along.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.db.database import Database, db

__all__ = ["Database", "db"]


def __getattr__(name: str) -> Any:
    database: Any = sys.modules.get(f"{__name__}.database")
    default = getattr(database, "db", None)
    # before it is there: an import asks for a module of this package here first
    is_module = default is None and find_spec(f"{__name__}.{name}") is not None
    if name.startswith("_") or is_module:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if default is None:
        database = import_module(f"{__name__}.database")
    if name not in __all__:
        return getattr(database.db, name)
    value = globals()[name] = getattr(database, name)
    return value
