"""Connections that are lost, cut, refused or pooled, on a real server."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from atlas.config import reset_settings
from atlas.db import Database, db
from atlas.db.arrow import ArrowConnection
from atlas.errors import (
    ConfigurationError,
    DatabaseUnavailable,
)
from tests.support.servers.postgres import Server

NOWHERE = "postgresql://ada:S3CRET@127.0.0.1:1/atlas"


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(
    database: Database,
) -> None:
    async with database.session() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        async with database.transaction() as other:
            await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        with pytest.raises(DatabaseUnavailable):
            await session.execute(text("SELECT 1"))
    assert await database.health_check()


async def test_a_connection_that_was_cut_while_idle_is_replaced_unseen(database: Database) -> None:
    async with database.session() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
    other = Database(await database.libpq_url())
    async with other.transaction() as session:
        await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    await other.close()
    async with database.session() as session:
        assert await session.scalar(text("SELECT pg_backend_pid()")) != pid


async def test_a_connection_that_is_cut_while_it_streams_says_so(database: Database) -> None:
    with ArrowConnection(await database.libpq_url()) as connection:
        ((pid,),) = connection.rows("SELECT pg_backend_pid()")
        batches = connection.batches("SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
        next(batches)
        async with database.transaction() as session:
            await session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        with pytest.raises(DatabaseUnavailable, match="connection to PostgreSQL failed"):
            list(batches)


async def test_an_exhausted_pool_says_which_setting(database_url: str) -> None:
    database = Database(database_url, pool_size=1, max_overflow=0, pool_timeout=0.01)
    async with database.session() as holder:
        await holder.execute(text("SELECT 1"))
        with pytest.raises(DatabaseUnavailable, match="DATABASE_POOL_SIZE"):
            await database.initialize()
    await database.close()


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    database = Database(NOWHERE)
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/atlas") as caught:
        await database.initialize()
    assert "S3CRET" not in str(caught.value)
    assert await database.health_check() is False
    await database.close()


async def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://ada@127.0.0.1:{port}/atlas?connect_timeout=1&sslmode=disable"
        database = Database(url)
        with pytest.raises(DatabaseUnavailable, match="cannot reach"):
            await database.initialize()
        await database.close()


async def test_a_wrong_setting_makes_the_health_check_false_not_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    reset_settings()
    assert await db.health_check() is False


async def test_a_missing_database_is_a_wrong_setting(postgres_server: Server) -> None:
    database = Database(postgres_server.database_url("no_such_database"))
    with pytest.raises(ConfigurationError, match="no_such_database"):
        await database.initialize()
    await database.close()


async def test_a_wrong_password_is_a_wrong_setting(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    if not parts.password:
        pytest.skip("needs a server that asks for a password")
    netloc = parts.netloc.replace(f":{parts.password}@", ":S3CRET@")
    database = Database(parts._replace(netloc=netloc).geturl())
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        await database.initialize()
    assert "S3CRET" not in str(caught.value)
    await database.close()


async def test_the_names_managed_services_hand_out_connect(database_url: str) -> None:
    joined = "&" if "?" in database_url else "?"
    database = Database(
        f"{database_url}{joined}sslmode=prefer&channel_binding=prefer&connect_timeout=10"
        "&application_name=hunter&target_session_attrs=read-write&options=-c%20geqo%3Doff"
    )
    async with database.session() as session:
        assert await session.scalar(text("SHOW application_name")) == "hunter"
        assert await session.scalar(text("SHOW geqo")) == "off"
    await database.close()


async def test_the_second_host_serves_while_the_first_is_down(database_url: str) -> None:
    parts = urlsplit(database_url)
    user, _, host = parts.netloc.rpartition("@")
    if not host:
        pytest.skip("needs a server on TCP")
    database = Database(parts._replace(netloc=f"{user}@127.0.0.1:1,{host}").geturl())
    await database.initialize()
    await database.close()


@pytest.fixture
async def pooled(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    database = Database(database_url)
    yield database
    await database.close()


async def test_behind_a_pooler_no_statement_stays_prepared(pooled: Database) -> None:
    async with pooled.transaction() as session:
        for number in range(3):
            found = await session.scalar(text("SELECT CAST(:n AS int)"), {"n": number})
            assert found == number
        names = await session.scalars(text("SELECT name FROM pg_prepared_statements"))
        # the one that asks; a name of its own cannot meet another client's
        assert [name[:8] for name in names.all()] == ["__atlas_"]
    async with pooled.transaction(read_only=True, isolation="REPEATABLE READ") as session:
        assert await session.scalar(text("SELECT count(*) FROM channels")) == 0


async def test_without_a_url_production_fails_rather_than_starting_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENV", "prod")
    with pytest.raises(ConfigurationError, match="set DATABASE_URL"):
        await db.initialize()
    assert not (tmp_path / "home").exists()
    assert "DATABASE_URL" not in os.environ
