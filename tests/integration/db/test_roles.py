"""Three roles: the owner migrates and archives, workers collect, readers read; no more than that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.db.administration.roles import Roles, apply, grants
from atlas.errors import ConfigurationError, DatabaseError
from atlas.ingest import record_samples
from atlas.janitor import Janitor
from atlas.reader import StatsReader
from atlas.scheduling import Work
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.cli import Run
from tests.support.samples import as_written, samples, visible
from tests.support.servers.postgres import Server
from tests.support.sql import execute, fetch, scalar
from tests.support.ways import login

WEEK = timedelta(days=7)


class Cast:
    """The same database as each role."""

    def __init__(self, server: Server, url: str) -> None:
        self.admin = Database(url)
        self.urls = {name: login(server, url, name) for name in ("owner", "worker", "reader")}
        self.owner, self.worker, self.reader = (Database(one) for one in self.urls.values())


@pytest.fixture
async def cast(database_url: str, postgres_server: Server) -> AsyncIterator[Cast]:
    admin = Database(database_url)
    await record_samples(admin, [Sample("early", datetime.now(UTC), views=1)])
    await apply(admin, Roles())
    await admin.close()
    cast = Cast(postgres_server, database_url)
    yield cast
    for one in (cast.admin, cast.owner, cast.worker, cast.reader):
        await one.close()


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


async def test_workers_fill_what_the_owner_archives_and_readers_see_all(
    cast: Cast, vault: LocalVault
) -> None:
    rows = samples(times=30)
    await record_samples(cast.worker, rows)
    owners = await fetch(
        cast.admin,
        "SELECT DISTINCT pg_get_userbyid(relowner)::text AS owner FROM pg_class "
        "WHERE relname LIKE 'video_stats_log%' AND relkind IN ('r', 'p')",
    )
    assert owners == [{"owner": "atlas_owner"}]
    wanted = as_written(rows)

    async def seen(database: Database) -> dict[object, object]:
        found = await visible(database, vault)
        return {key: value for key, value in found.items() if key[0] != "early"}

    assert await seen(cast.reader) == wanted
    assert (await Archiver(cast.owner, vault).run(WEEK)).rows == len(rows)
    for one in (cast.owner, cast.worker, cast.reader):
        assert await seen(one) == wanted
    await record_samples(cast.worker, rows[:3])  # partitions that were archived are made again
    assert (await Archiver(cast.owner, vault).run(WEEK)).late_rows == 3


async def test_a_worker_does_all_that_a_collector_does(cast: Cast, vault: LocalVault) -> None:
    dao = MaiaDAO(cast.worker, vault)
    await dao.add_to_search_queue(["cats"])
    (term,) = await dao.fetch_hunter_batch()
    await dao.ingest_videos([{"id": "v", "snippet": {"title": "t", "channelId": "UC1"}}])
    await dao.update_search_state(term["id"], None, 1, "exhausted")
    await dao.add_to_watchlist("v")
    async with Work(cast.worker).claim("track", limit=5) as batch:
        for item in batch:
            item.done(views=1)
    await dao.mark_video_transcript_safe("v")
    await dao.mark_video_visuals_safe("v")
    await dao.mark_video_done("v")
    await execute(cast.admin, "UPDATE videos SET discovered_at = now() - interval '30 days'")
    old = "(timezone('UTC', now())::date - 30)"
    await execute(cast.admin, f"SELECT atlas_event_partition({old})")
    assert (await Janitor(cast.worker, vault).run())["deleted"] == 1
    assert not await scalar(cast.admin, f"SELECT atlas_drop_event_day({old})")  # it did
    assert (await StatsReader(cast.worker, vault).history("v")).num_rows == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE videos",
        "ALTER TABLE video_stats_log ADD COLUMN x int",
        "CREATE TABLE mine (x int)",
        "TRUNCATE videos",
        "UPDATE alembic_version SET version_num = 'x'",
        "SELECT atlas_make_partition(now() + interval '9 years', now() + interval '9 years 1 hour')",
        "SELECT atlas_drop_event_day(timezone('UTC', now())::date)",
    ],
)
async def test_a_worker_changes_no_table(statement: str, cast: Cast) -> None:
    with pytest.raises((ConfigurationError, DatabaseError)) as caught:
        await execute(cast.worker, statement)
    assert not isinstance(caught.value, DatabaseError) or caught.value.sqlstate == "22023"


async def test_an_archive_as_a_worker_says_whose_work_it_is(cast: Cast, vault: LocalVault) -> None:
    rows = samples(times=6)
    await record_samples(cast.worker, rows)
    with pytest.raises(ConfigurationError, match="atlas db roles"):
        await Archiver(cast.worker, vault).run(WEEK)
    assert len(await visible(cast.worker, vault)) == len(as_written(rows)) + 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO channels (id, title) VALUES ('c', 'C')",
        "DELETE FROM videos",
        "SELECT atlas_make_partition(now(), now() + interval '1 hour')",
        "SELECT atlas_drop_event_day('2026-01-01')",
        "SELECT atlas_event_partition(current_date)",
    ],
)
async def test_a_reader_writes_nothing(statement: str, cast: Cast) -> None:
    with pytest.raises(ConfigurationError):
        await execute(cast.reader, statement)


async def test_nobody_else_makes_functions_that_the_owners_could_call(cast: Cast) -> None:
    # as databases have it that were made before PostgreSQL 15
    await execute(cast.admin, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in await apply(cast.admin, Roles())
    with pytest.raises(ConfigurationError, match="permission denied for schema"):
        await execute(
            cast.worker,
            "CREATE FUNCTION public.to_char(date, text) RETURNS text LANGUAGE sql AS 'SELECT $2'",
        )


async def test_a_reader_sees_appended_metrics_that_nobody_noted_yet(
    cast: Cast, vault: LocalVault
) -> None:
    vault.append_metrics([{"video_id": "v", "timestamp": datetime.now(UTC), "views": 1}])
    vault.flush()
    assert (await StatsReader(cast.reader, vault).history("v"))["views"].to_pylist() == [1]


async def test_a_function_of_the_owner_uses_no_table_of_its_callers(cast: Cast) -> None:
    await execute(cast.admin, "CREATE SCHEMA trap")
    await execute(cast.admin, "CREATE TABLE trap.video_stats_log (LIKE video_stats_log)")
    await execute(cast.admin, "GRANT USAGE ON SCHEMA trap TO PUBLIC")
    async with cast.worker.transaction() as session:
        await session.execute(text("SET LOCAL search_path = trap, pg_temp"))
        await session.execute(
            text("SELECT public.atlas_make_partition('2026-01-01 00:00Z', '2026-01-01 06:00Z')")
        )
    found = await scalar(
        cast.admin, "SELECT to_regclass('public.video_stats_log_p2026010100')::text"
    )
    assert found == "video_stats_log_p2026010100"
    await execute(cast.admin, "SELECT atlas_event_partition('2026-01-01')")
    await execute(cast.admin, "CREATE TABLE trap.system_events (LIKE system_events)")
    async with cast.worker.transaction() as session:
        await session.execute(text("SET LOCAL search_path = trap, pg_temp"))
        assert await session.scalar(text("SELECT public.atlas_drop_event_day('2026-01-01')"))
    assert await scalar(cast.admin, "SELECT to_regclass('public.system_events_p20260101')") is None


async def test_tables_of_later_versions_are_covered(cast: Cast) -> None:
    async with cast.owner.transaction() as session:
        await session.execute(text("SET LOCAL ROLE atlas_owner"))
        await session.execute(
            text("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, x int)")
        )
    await execute(cast.worker, "INSERT INTO later (x) VALUES (1)")
    assert await scalar(cast.reader, "SELECT x FROM later") == 1


async def test_migrations_of_a_member_belong_to_the_owner(cast: Cast) -> None:
    await migrations.downgrade(cast.owner, "2026_11_27_recovery")
    await migrations.upgrade(cast.owner)
    owner = await scalar(
        cast.admin,
        "SELECT pg_get_userbyid(proowner)::text FROM pg_proc WHERE proname = 'atlas_make_partition'",
    )
    assert owner == "atlas_owner"
    await record_samples(cast.worker, [Sample("v", datetime.now(UTC) - timedelta(days=2), views=1)])


async def test_the_printed_statements_are_those_that_are_run(cast: Cast, atlas: Run) -> None:
    printed = atlas("db", "roles", "--worker", 'odd "name"')
    assert printed.returncode == 0, printed.stderr
    assert 'CREATE ROLE "odd ""name""" NOLOGIN;' in printed.stdout
    async with cast.admin.transaction(read_only=True) as session:
        again = await grants(session, Roles())
    assert not [one for one in again if one.startswith(("CREATE ROLE", "ALTER TABLE"))]
    assert await apply(cast.admin, Roles()) == again
