"""Sessions are what Atlas needs, whatever the server, the database and the role have as defaults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.archive.fencing.lock import archiver_lock
from atlas.config import reset_settings
from atlas.db import Database, sessions
from atlas.db.administration import migrations
from atlas.db.administration.examination import examine_sessions
from atlas.db.arrow import ArrowConnection
from atlas.errors import ConfigurationError, DatabaseError, MigrationsPending
from atlas.ingest import record_samples
from atlas.scheduling import Work
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import as_written, samples, visible
from tests.support.servers import pgbouncer
from tests.support.servers.postgres import Server, name_of
from tests.support.sql import execute, fetch, scalar
from tests.support.ways import HOSTILE, make_hostile

#: All of `sessions.REQUIRED`, and where tables are looked for, as the session has them.
_IN_FORCE = """
    SELECT lower(name) AS name, setting FROM pg_settings
    WHERE lower(name) = ANY(string_to_array('{}', ',')) OR name = 'transaction_read_only'
""".format(",".join(sessions.REQUIRED))


@pytest.fixture
async def hostile(database_url: str, postgres_server: Server) -> AsyncIterator[Database]:
    make_hostile(postgres_server, database_url)
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


def wanted(found: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in sessions.REQUIRED.items() if name in found}


async def test_every_connection_of_the_pool_has_every_setting(hostile: Database) -> None:
    assert sessions.REQUIRED.keys() | {"search_path"} == HOSTILE.keys()
    found = {row["name"]: row["setting"] for row in await fetch(hostile, _IN_FORCE)}
    assert found.pop("transaction_read_only") == "off"
    assert len(found) >= len(sessions.REQUIRED) - 1
    assert found == wanted(found)
    assert await scalar(hostile, "SHOW transaction_isolation") == "read committed"
    assert await scalar(hostile, "SELECT current_schema()") == "public"
    async with hostile.autocommit() as session:
        assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_every_connection_of_arrow_has_every_setting(hostile: Database) -> None:
    with ArrowConnection(await hostile.libpq_url()) as connection:
        found = dict(connection.rows(_IN_FORCE))
        found.pop("transaction_read_only")
        # these two are the pool's; here the caller says which transaction it wants
        assert found == wanted(found)
        assert connection.rows("SELECT current_schema()::text") == [("public",)]


async def test_behind_a_pooler_every_transaction_has_every_setting(
    database_url: str, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_hostile(postgres_server, database_url)
    monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
    reset_settings()
    with pgbouncer.running(database_url) as url:
        database = Database(url)

        async def look() -> None:
            async with database.transaction() as session:
                rows = await session.execute(text(_IN_FORCE))
                found = {row.name: row.setting for row in rows}
                assert found.pop("transaction_read_only") == "off"
                assert found == wanted(found)
                assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"
                assert await session.scalar(text("SELECT current_schema()")) == "public"

        await asyncio.gather(*(look() for _ in range(2 * pgbouncer.POOL_SIZE)))
        async with database.transaction(read_only=True) as session:
            assert await session.scalar(text("SHOW transaction_read_only")) == "on"
        await database.close()
        # and nothing is left behind on the server's sessions, which other programs share
        assert HOSTILE["statement_timeout"] == await _plain(url, "SHOW statement_timeout")


async def test_bounds_of_statements_that_the_url_names_are_kept(
    hostile: Database, database_url: str
) -> None:
    joined = "&" if "?" in database_url else "?"
    options = (
        "-c statement_timeout=7s --lock-timeout=8s -c default_transaction_isolation=serializable"
    )
    database = Database(f"{database_url}{joined}options={quote(options)}")
    wanted = [("7s", "8s", "0", "read committed")]
    query = "SELECT " + ", ".join(
        f"current_setting('{name}')"
        for name in (
            "statement_timeout",
            "lock_timeout",
            "idle_session_timeout",
            "transaction_isolation",
        )
    )
    async with database.session() as session:
        assert [tuple(row) for row in await session.execute(text(query))] == wanted
    with ArrowConnection(await database.libpq_url()) as connection:
        assert [row[:3] for row in connection.rows(query)] == [row[:3] for row in wanted]
    found, mend = await examine_sessions(database)
    assert "statement_timeout=7000 ms" in found and "lock_timeout=8000 ms" in found
    assert "DATABASE_URL" in found and "options" in mend
    await database.close()


async def _plain(url: str, query: str) -> object:
    import asyncpg

    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_samples_of_many_writers_at_once_come_in_and_are_archived(
    hostile: Database, vault: LocalVault
) -> None:
    rows = samples(times=30)
    parts = [rows[start::8] for start in range(8)]
    await asyncio.gather(*(record_samples(hostile, part) for part in parts))
    assert (await Archiver(hostile, vault).run(timedelta(days=7))).rows == len(rows)
    assert await visible(hostile, vault) == as_written(rows)


async def test_claims_of_many_workers_have_each_item_once(hostile: Database) -> None:
    await execute(
        hostile,
        "INSERT INTO watchlist (video_id, next_track_at, published_at) "
        "SELECT 'v' || n, now() - interval '1 hour', now() FROM generate_series(1, 200) n",
    )

    async def worker() -> list[str]:
        had = []
        while True:
            async with Work(hostile).claim("track", limit=10) as batch:
                for item in batch:
                    item.done(views=1)
                had += [item.key for item in batch]
            if not len(batch):
                return had

    had = [key for one in await asyncio.gather(*(worker() for _ in range(4))) for key in one]
    assert sorted(had) == sorted(f"v{number}" for number in range(1, 201))


async def test_upgrades_at_once_take_turns(
    empty_database_url: str, postgres_server: Server
) -> None:
    make_hostile(postgres_server, empty_database_url)
    several = [Database(empty_database_url) for _ in range(3)]
    await asyncio.gather(*(migrations.upgrade(one) for one in several))
    assert await migrations.check(several[0]) == migrations.head()
    for one in several:
        await one.close()


async def test_the_archivers_lock_outlives_an_idle_session_timeout(hostile: Database) -> None:
    async with archiver_lock(hostile):
        held = await scalar(
            hostile,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        assert held == 1
        timeouts = await fetch(hostile, "SHOW idle_session_timeout")
        assert timeouts == [{"idle_session_timeout": "0"}]


async def test_new_partitions_lie_beside_the_others_whatever_the_path(
    hostile: Database, postgres_server: Server
) -> None:
    await record_samples(hostile, [Sample("v", datetime.now(UTC), views=1)])
    schemas = await fetch(
        hostile,
        "SELECT DISTINCT relnamespace::regnamespace::text AS schema FROM pg_class "
        "WHERE relname LIKE 'video_stats_log%' AND relkind IN ('r', 'p')",
    )
    assert schemas == [{"schema": "public"}]


async def test_a_path_without_a_schema_is_a_wrong_setting(
    database_url: str, postgres_server: Server
) -> None:
    postgres_server.execute(f'ALTER DATABASE "{name_of(database_url)}" SET search_path = nowhere')
    database = Database(database_url)
    with pytest.raises(ConfigurationError, match="search_path names no schema"):
        await database.initialize()
    with pytest.raises(ConfigurationError, match="search_path names no schema"):
        ArrowConnection(await database.libpq_url())
    await database.close()


@pytest.mark.parametrize("bounds", ["DEFAULT", "FOR VALUES FROM (MINVALUE) TO ('2020-01-01')"])
async def test_a_partition_whose_bounds_cannot_be_read_stops_the_archive(
    bounds: str, database: Database, vault: LocalVault
) -> None:
    await execute(
        database, f"CREATE TABLE video_stats_log_mine PARTITION OF video_stats_log {bounds}"
    )
    with pytest.raises(ConfigurationError, match="bounds of partition video_stats_log_mine"):
        await Archiver(database, vault).run(timedelta(days=7))


async def test_a_database_of_another_encoding_is_refused_at_the_upgrade(
    postgres_server: Server,
) -> None:
    url = postgres_server.create(
        options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    database = Database(url)
    with pytest.raises(ConfigurationError, match="encoding LATIN1"):
        await migrations.upgrade(database)
    assert await migrations.current(database) is None
    await database.close()
    postgres_server.drop(url)


async def test_a_database_that_only_stores_bytes_takes_titles_of_every_language(
    postgres_server: Server,
) -> None:
    url = postgres_server.create(
        options="ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    database = Database(url)
    await migrations.upgrade(database)
    await MaiaDAO(database).ingest_videos([{"id": "v", "snippet": {"title": "ばか é 🎬"}}])
    assert await scalar(database, "SELECT title FROM videos") == "ばか é 🎬"
    await database.close()
    postgres_server.drop(url)


HOSTILE_NAME = 'video_stats_log"; DROP TABLE channels; --'


async def test_a_hostile_name_in_the_ledger_reads_and_drops_nothing(
    database: Database, vault: LocalVault
) -> None:
    await record_samples(database, samples(times=30))
    with pytest.raises(DatabaseError) as caught:
        await execute(
            database,
            "INSERT INTO archive_files (dataset, object_key, vault, seq, batch_id, relation, slice_start, "
            "slice_end) VALUES ('video_stats', 'video_stats/x', 'v', 1, gen_random_uuid(), :name, "
            "now() - interval '9 days', now())",
            name=HOSTILE_NAME,
        )
    assert caught.value.constraint == "ck_archive_files_relation"
    # where the check is not there, as in a ledger that was restored without it
    await execute(database, "ALTER TABLE archive_files DROP CONSTRAINT ck_archive_files_relation")
    await execute(
        database,
        "INSERT INTO archive_files (dataset, object_key, vault, seq, batch_id, relation, slice_start, "
        "slice_end) VALUES ('video_stats', 'video_stats/x', :vault, 1, gen_random_uuid(), :name, "
        "now() - interval '9 days', now())",
        name=HOSTILE_NAME,
        vault=vault.identity,
    )
    with pytest.raises(MigrationsPending):
        await visible(database, vault)
    with pytest.raises(MigrationsPending):
        await Archiver(database, vault).run(timedelta(days=7))
    assert await scalar(database, "SELECT count(*) FROM channels") == 0


@pytest.mark.parametrize(
    "key",
    [
        "elsewhere/x.parquet",
        "video_stats/../x",
        "video_stats//x",
        "video_stats/a\nb",
        "video_stats/.",
    ],
)
async def test_the_ledger_holds_no_name_outside_of_its_folder(key: str, database: Database) -> None:
    with pytest.raises(DatabaseError) as caught:
        await execute(
            database,
            "INSERT INTO archive_files (dataset, object_key, vault, seq, batch_id, slice_start, slice_end) "
            "VALUES ('video_stats', :key, 'v', 1, gen_random_uuid(), now() - interval '9 days', now())",
            key=key,
        )
    assert caught.value.constraint == "ck_archive_files_object_key"
