"""Connections, sessions and transactions on a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

import atlas.db
from atlas.adapters.maia import MaiaDAO
from atlas.db import Database, db
from atlas.errors import (
    DatabaseError,
    DatabaseUnavailable,
    MigrationsPending,
)
from atlas.reader import StatsReader
from atlas.vault import LocalVault
from tests.support.servers.postgres import Server, name_of

INSERT = text("INSERT INTO channels (id, title) VALUES ('c', 'C')")


async def channels(database: Database) -> int:
    async with database.session() as session:
        return int(await session.scalar(text("SELECT count(*) FROM channels")) or 0)


async def connections(server: Server, url: str) -> int:
    count = await asyncio.to_thread(
        server.execute,
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name_of(url)}'",
    )
    return int(count)


async def test_a_transaction_commits_on_success(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(INSERT)
    assert await channels(database) == 1


async def test_a_transaction_rolls_back_on_any_error(database: Database) -> None:
    async def work() -> None:
        async with database.transaction() as session:
            await session.execute(INSERT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()
    assert await channels(database) == 0


async def test_a_transaction_rolls_back_when_its_task_is_cancelled(database: Database) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as session:
            await session.execute(INSERT)
            inserted.set()
            await session.execute(text("SELECT pg_sleep(600)"))

    task = asyncio.create_task(work())
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await channels(database) == 0


async def test_a_session_commits_nothing_by_itself(database: Database) -> None:
    async with database.session() as session:
        await session.execute(INSERT)
    assert await channels(database) == 0


async def test_a_read_only_transaction_refuses_writes_and_leaves_no_trace(
    database: Database,
) -> None:
    with pytest.raises(DatabaseError) as caught:
        async with database.transaction(read_only=True) as session:
            await session.execute(INSERT)
    assert caught.value.sqlstate == "25006"
    async with database.transaction() as session:  # on the same connection of the pool
        await session.execute(INSERT)


async def test_the_isolation_asked_for_is_given_and_ends_with_the_transaction(
    database: Database,
) -> None:
    show = text("SHOW transaction_isolation")
    async with database.transaction(isolation="REPEATABLE READ", read_only=True) as session:
        assert await session.scalar(show) == "repeatable read"
    async with database.transaction() as session:
        assert await session.scalar(show) == "read committed"


async def test_times_come_in_utc_whatever_the_server_thinks(database: Database) -> None:
    async with database.session() as session:
        assert await session.scalar(text("SHOW timezone")) == "UTC"


@pytest.mark.parametrize("zone", ["America/St_Johns", "Asia/Kathmandu"])
async def test_times_come_in_utc_whatever_this_machine_thinks(
    zone: str, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moment = datetime(2026, 11, 1, 23, 45, tzinfo=UTC)
        await MaiaDAO(database).log_video_stats_batch(
            [{"video_id": "v", "timestamp": "2026-11-01T23:45:00Z", "views": 1}]
        )
        table = await StatsReader(database, LocalVault(tmp_path)).history("v", since=moment)
        assert table["timestamp"].to_pylist() == [moment]
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_what_the_session_fixture_commits_is_gone_for_the_next_test(
    session: AsyncSession,
) -> None:
    await _insert_and_commit(session)


async def test_what_the_session_fixture_committed_is_gone(session: AsyncSession) -> None:
    await _insert_and_commit(session)


async def _insert_and_commit(session: AsyncSession) -> None:
    assert await session.scalar(text("SELECT count(*) FROM channels")) == 0
    await session.execute(INSERT)
    await session.commit()


async def test_both_spellings_of_the_default_database_are_one(database: Database) -> None:
    await atlas.db.initialize()
    assert await atlas.db.health_check()
    assert atlas.db.session == db.session
    with pytest.raises(AttributeError):
        atlas.db.no_such_name  # noqa: B018 - the access is what is tested
    await atlas.db.close()
    await atlas.db.close()


def test_two_runs_without_close_leave_no_warning(database_url: str) -> None:
    code = """
import asyncio
from sqlalchemy import text
from atlas.db import db

async def scan():
    async with db.session() as session:
        yield await session.scalar(text("SELECT 1"))

abandoned = []

async def main():
    # a busy machine is no fault: only warnings about what was left open count
    asyncio.get_running_loop().slow_callback_duration = 600
    await db.initialize()
    assert await db.health_check()
    abandoned.append(scan())
    await anext(abandoned[-1])  # its session is still open when the loop shuts down
    async with db.transaction() as session:
        await session.execute(text("SELECT 1"))

asyncio.run(main())
asyncio.run(main())
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_threads_use_one_database_each_in_its_own_loop(database_url: str) -> None:
    database = Database(database_url)
    together = threading.Barrier(4)
    seen: list[int] = []

    async def work() -> None:
        async with database.session() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            together.wait(30)  # every thread holds a connection now
            seen.append(int(pid or 0))

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 4


async def test_close_leaves_no_connection_though_a_session_is_open(
    database_url: str, postgres_server: Server
) -> None:
    database = Database(database_url)
    async with database.session() as session:
        await session.execute(text("SELECT 1"))
        await database.close()
    assert await connections(postgres_server, database_url) == 0
    assert await database.health_check()  # and it can be used again
    await database.close()


async def test_a_constraint_is_named_by_the_error(database: Database) -> None:
    with pytest.raises(DatabaseError) as caught:
        async with database.transaction() as session:
            await session.execute(
                text("INSERT INTO videos (id, title, status) VALUES ('v', 'secret row', 'LOST')")
            )
    assert caught.value.sqlstate == "23514"
    assert caught.value.constraint == "ck_videos_status"
    assert "secret row" not in str(caught.value)


async def test_a_missing_partition_is_told_from_a_constraint(database: Database) -> None:
    with pytest.raises(DatabaseError) as caught:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO video_stats_log (video_id) VALUES ('v')"))
    assert (caught.value.sqlstate, caught.value.constraint) == ("23514", None)


async def test_an_error_of_the_commit_is_translated(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("CREATE TABLE t (i int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    with pytest.raises(DatabaseError) as caught:
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO t VALUES (1), (1)"))
    assert caught.value.sqlstate == "23505"


async def test_a_missing_column_says_to_migrate(database: Database) -> None:
    with pytest.raises(MigrationsPending, match="atlas db upgrade"):
        async with database.transaction() as session:
            await session.execute(text("SELECT no_such_column FROM videos"))


async def test_plans_from_before_a_migration_are_made_anew(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    one = Database(database_url, pool_size=1, max_overflow=0)
    dao = MaiaDAO(one, LocalVault(tmp_path))

    async def calls(term: str) -> None:
        await dao.add_to_search_queue([term])
        assert [row["query_term"] for row in await dao.fetch_hunter_batch()] == [term]
        await dao.ingest_videos([{"id": term, "snippet": {"title": term}}])
        assert [row["title"] for row in await dao.fetch_scribe_batch()] == [term]
        await dao.log_video_stats_batch([{"video_id": term, "views": 1}])
        await dao.add_to_watchlist(term)
        assert [row["video_id"] for row in await dao.fetch_tracking_batch()] == [term]

    await calls("before")
    async with database.transaction() as session:
        for table in ("videos", "watchlist", "search_queue", "channels", "video_stats_log"):
            await session.execute(text(f"ALTER TABLE {table} ADD COLUMN later int"))
    await calls("after")
    # where columns have another type PostgreSQL refuses the plan once
    async with database.transaction() as session:
        await session.execute(text("ALTER TABLE videos ALTER COLUMN title TYPE varchar(200)"))
    with pytest.raises(DatabaseUnavailable, match="cached plan") as caught:
        await calls("refused")
    assert "again" in str(caught.value.hint)
    await dao.mark_video_failed("refused")
    await calls("last")
    await one.close()


async def test_a_lock_that_is_not_had_can_be_tried_again(database: Database) -> None:
    async with database.transaction() as holder:
        await holder.execute(text("LOCK TABLE videos"))
        async with database.session() as session:
            await session.execute(text("SET LOCAL lock_timeout = '10ms'"))
            with pytest.raises(DatabaseUnavailable) as caught:
                await session.execute(text("LOCK TABLE videos"))
    assert caught.value.sqlstate == "55P03"


async def test_the_callers_own_errors_are_left_alone(database: Database) -> None:
    for error in (FileNotFoundError("mine"), TimeoutError("mine")):
        with pytest.raises(type(error), match="mine"):
            async with database.transaction():
                raise error
