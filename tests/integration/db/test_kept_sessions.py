"""A kept session is one connection until it is given back, and never a broken one."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.database import KeptSession
from atlas.errors import DatabaseError

PID = text("SELECT pg_backend_pid()")


async def test_it_is_one_session_until_it_is_released(database: Database) -> None:
    kept = KeptSession(database)
    async with kept.use() as first:
        pass
    async with kept.use() as second:
        assert second is first
    await kept.release()
    await kept.release()
    async with kept.use() as third:
        assert third is not first
    await kept.release()
    pool = (await database.engine()).pool
    assert pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_after_a_lost_connection_the_next_use_has_another(database: Database) -> None:
    kept = KeptSession(database)
    async with kept.use() as session:
        pid = await session.scalar(PID)
    async with database.autocommit() as other:
        await other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    with pytest.raises(DatabaseError):
        async with kept.use() as session:
            await session.execute(PID)
    async with kept.use() as session:
        assert await session.scalar(PID) != pid
    await kept.release()


async def test_behind_a_pooler_each_use_is_a_transaction_that_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    kept = KeptSession(database)
    async with kept.use() as session:
        await session.execute(text("INSERT INTO search_queue (query_term) VALUES ('x')"))
    async with kept.use() as session:
        assert await session.scalar(text("SELECT count(*) FROM search_queue")) == 1
    assert (await database.engine()).pool.checkedout() == 0  # type: ignore[attr-defined]
