"""PostgreSQL: the default database `db`, and `Database` for others.

``from atlas import db; await db.initialize()`` and ``from atlas.db import db`` are the same: names
that this module does not have are looked up on the default object. They resolve on first use, since
they bring SQLAlchemy along.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atlas.db.database import Database
    from atlas.db.default import db

__all__ = ["Database", "db"]


def __getattr__(name: str) -> Any:
    # an import asks for a module of this package here first
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is not None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from atlas.db import default

    if name not in __all__:
        return getattr(default.db, name)
    value = globals()[name] = getattr(default, name)
    return value
