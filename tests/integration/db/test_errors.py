"""One failure is one error, by whichever driver it comes; and waiting for a connection ends."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.arrow import ArrowConnection
from atlas.errors import AtlasError, DatabaseUnavailable
from tests.support.servers import pgbouncer
from tests.support.servers.postgres import Server

STATEMENTS = {
    "a missing table": "SELECT secret_column,\n x FROM nowhere",
    "a missing column": "SELECT secret_column FROM videos",
    "wrong syntax": "SELECT FROM WHERE secret_column",
    "a division": "SELECT 1 / 0, 'secret_column'",
    "a cancelled statement": "DO $$ BEGIN RAISE EXCEPTION 'secret' USING ERRCODE = '57014'; END $$",
    "a privilege": "DO $$ BEGIN RAISE EXCEPTION 'denied' USING ERRCODE = '42501'; END $$",
    "a prepared statement of a pooler": "DO $$ BEGIN RAISE EXCEPTION 'gone' USING ERRCODE = '26000'; END $$",
    "another pooler's": "DO $$ BEGIN RAISE EXCEPTION 'there' USING ERRCODE = '42P05'; END $$",
    "a lock": "DO $$ BEGIN RAISE EXCEPTION 'late' USING ERRCODE = '55P03'; END $$",
}


def facts(error: AtlasError) -> tuple[object, ...]:
    return type(error), error.message, error.hint, getattr(error, "sqlstate", None)


@pytest.mark.parametrize("what", STATEMENTS)
async def test_a_statement_fails_alike_by_both_drivers(what: str, database: Database) -> None:
    statement = STATEMENTS[what]
    with pytest.raises(AtlasError) as ours:
        async with database.transaction() as session:
            await session.execute(text(statement.replace(":", "\\:")))
    with (
        ArrowConnection(await database.libpq_url()) as connection,
        pytest.raises(AtlasError) as theirs,
    ):
        connection.execute(statement) if statement.startswith("DO") else connection.rows(statement)
    assert facts(ours.value) == facts(theirs.value)
    assert "SELECT" not in ours.value.message
    if "pooler" in what:
        assert "DATABASE_POOL_MODE=transaction" in str(ours.value)


@pytest.mark.parametrize("what", ["database", "user", "port"])
async def test_a_connection_fails_alike_by_both_drivers(what: str, database_url: str) -> None:
    parts = urlsplit(database_url)
    host = parts.netloc.rpartition("@")[2]
    url = {
        "database": parts._replace(path="/no_such_database"),
        "user": parts._replace(netloc=f"no_such_user@{host}"),
        "port": parts._replace(netloc="postgres@127.0.0.1:1", query=""),
    }[what].geturl()
    database = Database(url)
    with pytest.raises(AtlasError) as ours:
        await database.initialize()
    with pytest.raises(AtlasError) as theirs:
        ArrowConnection(await database.libpq_url())
    assert facts(ours.value) == facts(theirs.value)
    where = host or parse_qs(parts.query)["host"][0]
    assert ("127.0.0.1:1" if what == "port" else where) in ours.value.message
    if what == "user":
        assert "sslmode=require" in str(ours.value)
    await database.close()


async def test_many_tasks_share_a_few_connections_of_a_pooler(
    database_url: str, monkeypatch: pytest.MonkeyPatch, postgres_server: Server
) -> None:
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    with pgbouncer.running(database_url, "max_client_conn = 10") as url:
        database = Database(url)

        async def task() -> int:
            async with database.transaction() as session:
                return int(await session.scalar(text("SELECT 1")) or 0)

        assert sum(await asyncio.gather(*(task() for _ in range(300)))) == 300
        await database.close()


async def test_waiting_for_a_connection_of_arrow_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_POOL_SIZE", "1")
    monkeypatch.setenv("DATABASE_POOL_TIMEOUT", "0.01")
    reset_settings()
    url = await database.libpq_url()
    held = [ArrowConnection(url) for _ in range(3)]
    with pytest.raises(DatabaseUnavailable, match="DATABASE_POOL_SIZE"):
        ArrowConnection(url)
    for one in held:
        one.close()
    with ArrowConnection(url) as connection:
        assert connection.rows("SELECT 1") == [(1,)]
