"""PostgreSQL: the default database `db`, and `Database` for others.

``from atlas import db; await db.initialize()`` and ``from atlas.db import db`` are the same: names
that this module does not have are looked up on the default object.
"""

from __future__ import annotations

from typing import Any

from atlas.db.database import Database

__all__ = ["Database", "db"]

#: The database of the settings, which are read at its first use.
db = Database()


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(db, name)
