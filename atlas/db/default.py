"""The default database."""

from __future__ import annotations

from atlas.db.database import Database

#: The database of the settings, which are read at its first use.
db = Database()
