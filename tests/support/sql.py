"""Plain SQL for tests that look past the repositories."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from atlas.db import Database


async def execute(database: Database, statement: str, **values: object) -> None:
    """Run a statement in a transaction of its own."""
    async with database.transaction() as session:
        await session.execute(text(statement), values)


async def fetch(database: Database, query: str, **values: object) -> list[dict[str, Any]]:
    """The rows of a query."""
    async with database.session() as session:
        return [dict(row) for row in (await session.execute(text(query), values)).mappings()]


async def scalar(database: Database, query: str, **values: object) -> Any:
    """The first column of the first row."""
    async with database.session() as session:
        return await session.scalar(text(query), values)


async def waiting_for_locks(database: Database) -> int:
    """How many sessions of the database wait for a lock."""
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
    return int(await scalar(database, statement + "AND datname = current_database()"))
