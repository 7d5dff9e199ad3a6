"""How Alembic reaches the database: by the settings of Atlas, or a connection it is given."""

from __future__ import annotations

import asyncio
import logging.config
from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from atlas.db import Database
from atlas.db.administration.migrations import RENAMED
from atlas.db.sql import identifier
from atlas.models import Base

#: How long a migration waits for a lock before it gives way to the writers behind it.
LOCK_TIMEOUT = "5s"
#: How the names of partitions begin.
PARTITIONS = ("video_stats_log_", "system_events_p", "event_deliveries_p")


def include_name(name: str | None, type_: str, _: Any) -> bool:
    """Partitions come and go at run time; no revision speaks of them."""
    if type_ != "table" or name is None:
        return True
    return not (name.startswith(PARTITIONS) or name == "alembic_version")


def include_object(item: Any, _: str | None, type_: str, __: bool, counterpart: Any) -> bool:
    """Alembic cannot compare expressions of several lines; a test compares them by pg_dump."""
    if type_ == "index" and counterpart is not None:
        return not any("\n" in str(expression) for expression in item.expressions)
    return True


def become_owner(connection: Connection) -> None:
    """Let new tables belong to whom the others do, where the user is a member of that role."""
    owner = connection.scalar(
        text(
            "SELECT pg_get_userbyid(relowner)::text FROM pg_class "
            "WHERE oid = to_regclass('archive_control') "
            "AND pg_get_userbyid(relowner) <> current_user AND pg_has_role(relowner, 'MEMBER')"
        )
    )
    if owner is not None:
        connection.execute(text(f"SET LOCAL ROLE {identifier(owner)}"))


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=include_name,
        include_object=include_object,
        compare_type=True,
        compare_server_default=True,
        # not one that another program has in a schema further along the path
        version_table_schema=connection.scalar(text("SELECT current_schema()")),
    )
    with context.begin_transaction():
        # one migrator at a time; waiting for the turn is not what the timeout is for
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('atlas.migrations'))"))
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        become_owner(connection)
        rename_revisions(connection)
        context.run_migrations()


def rename_revisions(connection: Connection) -> None:
    """Write the id of today into a database that carries the old id of a revision."""
    if connection.scalar(text("SELECT to_regclass(current_schema() || '.alembic_version')")):
        for old, new in RENAMED.items():
            connection.execute(
                text("UPDATE alembic_version SET version_num = :new WHERE version_num = :old"),
                {"old": old, "new": new},
            )


async def connect_and_migrate() -> None:
    engine = await Database().engine()
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()


def print_sql() -> None:
    """``alembic upgrade head --sql``: needs no database."""
    # the default style of parameters doubles every percent sign, also in what format() is given
    context.configure(
        dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    print_sql()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    if context.config.config_file_name is not None:
        logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    asyncio.run(connect_and_migrate())
