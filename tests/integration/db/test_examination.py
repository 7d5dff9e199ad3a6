"""`atlas doctor` names what is wrong with a database before it hurts, and what mends it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from atlas.config import reset_settings
from atlas.db import Database
from atlas.db.administration.examination import examine_access, examine_pooler, examine_sessions
from atlas.db.administration.roles import Roles, apply
from atlas.errors import ConfigurationError
from atlas.ingest import record_samples
from atlas.types import Sample
from tests.support.servers import pgbouncer
from tests.support.servers.postgres import Server
from tests.support.sql import execute
from tests.support.ways import HOSTILE, login, make_hostile


async def test_a_plain_database_is_in_order(database: Database) -> None:
    assert await examine_sessions(database) == ("as Atlas needs them", "")
    assert await examine_pooler(database) == "a direct connection"
    assert "owns the tables" in await examine_access(database)


async def test_each_hostile_default_is_named_with_what_mends_it(
    database_url: str, postgres_server: Server
) -> None:
    make_hostile(postgres_server, database_url)
    database = Database(database_url)
    found, mend = await examine_sessions(database)
    for name in HOSTILE.keys() - {"search_path", "transaction_timeout"}:
        assert f"{name}=" in found.lower()
        assert f"reset {name}" in mend.lower()
    await database.close()


async def test_two_schemas_with_our_tables_are_named(
    database_url: str, postgres_server: Server
) -> None:
    postgres_server.execute("CREATE SCHEMA other", database_url)
    postgres_server.execute("CREATE TABLE other.archive_control (id int)", database_url)
    joined = "&" if "?" in database_url else "?"
    database = Database(f"{database_url}{joined}options=-c%20search_path%3Dpublic,other")
    with pytest.raises(ConfigurationError, match="two schemas"):
        await examine_sessions(database)
    await database.close()


async def test_a_pooler_is_told_from_one_that_nobody_knows_of(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pgbouncer.running(database_url) as url:
        unaware = Database(url, connect_args={"statement_cache_size": 0})
        with pytest.raises(ConfigurationError, match="DATABASE_POOL_MODE=transaction"):
            await examine_pooler(unaware)
        await unaware.close()
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        reset_settings()
        aware = Database(url)
        assert "in transaction mode" in await examine_pooler(aware)
        assert (await examine_sessions(aware))[0] == "as Atlas needs them"
        await aware.close()


async def test_partitions_of_others_are_named(database: Database, postgres_server: Server) -> None:
    await record_samples(database, [Sample("v", datetime.now(UTC), views=1)])
    await apply(database, Roles())
    await execute(
        database,
        "DO $$ DECLARE part regclass; BEGIN SELECT inhrelid INTO part FROM pg_inherits "
        "WHERE inhparent = 'video_stats_log'::regclass LIMIT 1; "
        "EXECUTE format('ALTER TABLE %s OWNER TO CURRENT_USER', part); END $$",
    )
    with pytest.raises(ConfigurationError, match="atlas db roles --apply"):
        await examine_access(database)
    await apply(database, Roles())
    assert await examine_access(database)


async def test_each_role_is_told_what_it_is(
    database: Database, database_url: str, postgres_server: Server
) -> None:
    await apply(database, Roles())
    for role, told in (
        ("owner", "owns the tables"),
        ("worker", "collects"),
        ("reader", "only reads"),
    ):
        one = Database(login(postgres_server, database_url, role))
        assert told in await examine_access(one)
        await one.close()
    await execute(database, "REVOKE EXECUTE ON FUNCTION atlas_drop_event_day FROM atlas_worker")
    worker = Database(login(postgres_server, database_url, "worker"))
    with pytest.raises(ConfigurationError, match="atlas db roles"):
        await examine_access(worker)
    await worker.close()
