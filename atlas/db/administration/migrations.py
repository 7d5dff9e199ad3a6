"""Bringing the schema of a database up to this version of Atlas.

The revisions are those of ``migrations/``: inside the installed package, or at a checkout's top.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, inspect, text

from atlas.db.database import Database
from atlas.db.sessions import check_encoding
from atlas.errors import ConfigurationError, MigrationsPending

#: Alembic keeps what it is doing in globals: one at a time in a process, in a thread with a loop of
#: its own, because a task of the same loop could not be waited for.
_mutex = threading.Lock()

#: Revisions that had other ids in Atlas 0.1, old id to new: databases may still carry the old one.
RENAMED = {
    "20261123": "2026_11_23_initial",
    "20261123b": "2026_11_23_archive_upkeep",
    "20261123c": "2026_11_24_work",
    "20261123d": "2026_11_24_stats_claim",
}


def folder() -> Path:
    """Where the revisions are. Raises `ConfigurationError` where they were not installed."""
    package = Path(__file__).resolve().parents[2]
    for candidate in (package / "_migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise ConfigurationError("the migrations of Atlas are missing", hint="install Atlas again")


def head() -> str:
    """The revision this version of Atlas needs."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise ConfigurationError("there is no migration", hint="install Atlas again")
    return revision


async def current(database: Database) -> str | None:
    """The revision the database is at; None for an empty one."""
    engine = await database.engine()
    async with engine.connect() as connection:
        return await connection.run_sync(_current)


async def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the database to ``revision``; nothing to do is no error.

    Everything happens in one transaction; processes that migrate at the same time take turns.
    Raises `DatabaseUnavailable` where a table stays locked by others; nothing is changed then.
    """
    await _run(database, command.upgrade, revision)


async def downgrade(database: Database, revision: str) -> None:
    """Take the database back to ``revision`` (``base``: empty). **Drops tables and their rows.**"""
    await _run(database, command.downgrade, revision)


async def check(database: Database) -> str:
    """The revision of the database, if it is the one needed; else raises `MigrationsPending`."""
    found, needed = await current(database), head()
    if found == needed:
        return needed
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found is not None and found not in known:
        raise MigrationsPending(
            f"the database is at {found}, which is newer than this version of Atlas ({needed})",
            hint="install the version of Atlas that migrated it, or a later one",
        )
    raise MigrationsPending(f"the database is at {found or 'nothing'}, Atlas needs {needed}")


async def _run(database: Database, step: Any, revision: str) -> None:
    revision = RENAMED.get(revision, revision)

    def work() -> None:
        with _mutex:
            asyncio.run(_run_in_own_loop(database, step, revision))

    await asyncio.to_thread(work)


async def _run_in_own_loop(database: Database, step: Any, revision: str) -> None:
    engine = await database.engine()
    async with engine.connect() as connection:
        try:
            await connection.run_sync(_run_step, step, revision)
        except CommandError as error:
            raise ConfigurationError(
                f"cannot migrate to {revision!r}: {error}", hint="see `atlas db current`"
            ) from error
        await connection.commit()


def _run_step(connection: Connection, step: Any, revision: str) -> None:
    if step is command.upgrade:
        check_encoding(str(connection.scalar(text("SHOW server_encoding"))))
        _refuse_tables_without_version(connection)
        connection.commit()
    config = _config()
    config.attributes["connection"] = connection
    step(config, revision)


def _current(connection: Connection) -> str | None:
    schema = connection.scalar(text("SELECT current_schema()"))
    context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
    found = context.get_current_revision()
    return None if found is None else RENAMED.get(found, found)


def _refuse_tables_without_version(connection: Connection) -> None:
    """Raise `ConfigurationError` for tables of these names that no revision here has made."""
    if _current(connection) is not None:
        return
    schema = connection.scalar(text("SELECT current_schema()"))
    tables = inspect(connection).get_table_names(schema)
    there = sorted({*tables} & {"videos", "video_stats_log"})
    if not there:
        return
    if "archive_control" in tables:
        raise ConfigurationError(
            "the database has Atlas's tables, but does not say at which revision they are",
            hint="where its backup did, `alembic stamp REVISION` says it again",
        )
    raise ConfigurationError(
        f"the database has a table {there[0]} that this version of Atlas did not make",
        hint="`atlas db upgrade --take-over` takes over the tables of the platform's first schema; "
        "for other tables create a schema of its own and name it in search_path",
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
