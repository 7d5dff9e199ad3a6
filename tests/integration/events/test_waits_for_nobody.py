"""An emit waits for no handler and for no server; a claim looks at no row that it does not take."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from sqlalchemy import text

from atlas.config import Settings
from atlas.db import Database
from atlas.db.driver import driver_in
from atlas.events import Event, EventBus, bus, handlers, recording
from atlas.repositories.events import deliveries
from tests.support.sql import execute, scalar


@pytest.fixture
async def quiet(database: Database) -> EventBus:
    return EventBus(database, Settings(_env_file=None, env="test"))


@pytest.mark.parametrize("kind", ["hanging", "blocking", "cancelled"])
async def test_a_handler_that_does_not_end_is_waited_for_once_and_stops_no_other(
    quiet: EventBus, kind: str
) -> None:
    release = threading.Event()
    seen: list[str] = []

    if kind == "hanging":

        @quiet.on("*")
        async def bad(event: Event) -> None:
            await asyncio.Event().wait()

    elif kind == "blocking":

        @quiet.on("*")
        def block(event: Event) -> None:
            release.wait()

    else:

        @quiet.on("*")
        async def cancelled(event: Event) -> None:
            raise asyncio.CancelledError

    @quiet.on("*")
    async def good(event: Event) -> None:
        seen.append(event.event_type)

    for number in range(5):
        await quiet.emit(f"a.{number}")
    while len(seen) < 5:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert seen == [f"a.{number}" for number in range(5)]
    release.set()
    assert bus.HANDLER_WAIT <= 0.05


async def test_a_handler_that_takes_too_long_is_left_behind(
    quiet: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "TIMEOUT", 0.05)
    seen: list[str] = []

    @quiet.on("*")
    async def handler(event: Event) -> None:
        if event.event_type == "a":
            await asyncio.Event().wait()
        seen.append(event.event_type)

    with structlog.testing.capture_logs() as logs:
        await quiet.emit_many([("a",), ("b",)], wait=True)
    assert seen == ["b"]
    assert [entry["event"] for entry in logs] == ["event_handler_timeout"]


async def test_what_overflows_a_queue_is_counted_and_logged(
    quiet: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "QUEUE", 3)
    release = asyncio.Event()
    seen: list[str] = []

    @quiet.on("*")
    async def slow(event: Event) -> None:
        await release.wait()
        seen.append(event.event_type)

    with structlog.testing.capture_logs() as logs:
        await quiet.emit_many([(f"a.{n}",) for n in range(10)])
    release.set()
    await quiet.drain()
    assert seen == ["a.0", "a.1", "a.2"]
    assert quiet._handlers.dropped == 7
    assert {entry["event"] for entry in logs} == {"event_handler_overflow"}


def test_what_waits_when_the_loop_ends_is_handled_then(database: Database) -> None:
    made = EventBus(database, Settings(_env_file=None, env="test"))
    seen: list[str] = []

    @made.on("*")
    async def handler(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(event.event_type)

    async def work() -> None:
        async with database.transaction() as session:
            await made.emit_many([("a",), ("b",), ("c",)], session=session)

    asyncio.run(work())
    assert seen[-2:] == ["b", "c"]


@pytest.fixture
async def mute() -> AsyncIterator[Database]:
    """A database of a server that accepts, and never says a word."""
    held: list[asyncio.StreamWriter] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql://nobody@127.0.0.1:{port}/none?sslmode=disable")
    yield database
    for writer in held:
        writer.close()
    server.close()
    await server.wait_closed()
    await database.close()


async def test_a_server_that_does_not_answer_holds_an_emit_for_its_time_out_only(
    mute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "EMIT_TIMEOUT", 0.2)
    made = EventBus(mute, Settings(_env_file=None, env="test"))
    with structlog.testing.capture_logs() as logs:
        begun = time.monotonic()
        await made.emit("a")
        assert time.monotonic() - begun < 10  # the connection's own time-out is 15 s
    assert [entry["event"] for entry in logs] == ["event_not_recorded"]
    await made.drain()


async def test_a_locked_log_undoes_the_event_alone(quiet: EventBus, database: Database) -> None:
    async with database.session() as holder:
        await holder.execute(text("LOCK TABLE system_events IN ACCESS EXCLUSIVE MODE"))
        with structlog.testing.capture_logs() as logs:
            async with database.transaction() as session:
                await session.execute(text("INSERT INTO search_queue (query_term) VALUES ('x')"))
                await quiet.emit("a", session=session)
    assert [entry["event"] for entry in logs] == ["event_not_recorded"]
    assert await scalar(database, "SELECT count(*) FROM search_queue") == 1


async def test_a_claim_reads_by_the_index_however_many_wait(
    quiet: EventBus, database: Database
) -> None:
    made = await quiet.endpoints.add("hook", "https://hook.example/")
    await execute(
        database,
        "INSERT INTO event_deliveries (event_id, endpoint_id, event_at, due_at) "
        "SELECT gen_random_uuid(), :id, now(), now() - n * interval '1 ms' "
        "FROM generate_series(1, 200000) n",
        id=made.id,
    )
    await execute(database, "ANALYZE event_deliveries")
    explain = f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS OFF) {deliveries._CLAIM.format(limit=25)}"
    async with database.session() as session:
        async with driver_in(session) as driver:
            rows = await driver.fetch(explain, [made.id], [None], uuid.uuid4(), 1.0)
        plan = "\n".join(row[0] for row in rows)
        await session.rollback()
    assert "endpoint_id_due_at" in plan, plan
    today = await scalar(database, "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
    assert f"Seq Scan on event_deliveries_p{today}" not in plan, plan


async def test_an_endpoint_of_the_settings_that_cannot_be_made_takes_none_of_the_emits_time(
    mute: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "EMIT_TIMEOUT", 0.3)
    monkeypatch.setattr(bus, "ENSURE_SECONDS", 0.2)
    given: list[float] = []
    wait = asyncio.wait

    async def waited(tasks: Any, timeout: float | None = None, **options: Any) -> Any:
        if timeout is not None:
            given.append(timeout)
        return await wait(tasks, timeout=timeout, **options)

    monkeypatch.setattr(asyncio, "wait", waited)
    url = SecretStr("https://hook.example/")
    made = EventBus(mute, Settings(_env_file=None, env="test", event_bus_webhook_url=url))
    monkeypatch.setattr(bus, "send_unrecorded", lambda *_: asyncio.sleep(0))
    with structlog.testing.capture_logs() as logs:
        await made.emit("a")
    told = [entry["event"] for entry in logs]
    assert "event_endpoint_not_made" in told and "event_not_recorded" in told
    # together no longer than the emit has
    assert given[0] == 0.2 and given[1] <= 0.1
    await made.drain()
