"""What deliveries cost and wait for. A receiver in a process of its own checks every signature."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp.web
from standardwebhooks.webhooks import Webhook

from atlas.db import Database
from atlas.db.driver import driver_in
from atlas.events import EventBus
from atlas.events.delivery.router import route_page
from atlas.events.delivery.signing import read_secrets, signature_headers
from atlas.repositories.events import deliveries as claiming
from atlas.repositories.events import endpoints
from benchmarks.support import Result, at_most, part
from tests.support.sql import execute, fetch, scalar

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
IN_FLIGHT = 10
#: Answers of /slow after so many seconds, one in so many.
SLOW_SECONDS, SLOW_EVERY = 3.0, 50


async def measure(bus: EventBus, folder: Path, rows: int, seconds: float) -> list[Result]:
    """Every figure, one after the other; ``rows`` halved wait where many do."""
    async with receiver(folder) as (url, came):
        results = [
            *await delivering(bus, url),
            await hanging(bus, url, came, rows // 20),
            *await outage(bus, url, came, folder, seconds),
        ]
    return results + await many_waiting(bus, rows // 2)


@contextlib.asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[tuple[str, Callable[[], list[list[str]]]]]:
    """A receiver's address, and what has come: path, id, time."""
    path = folder / "came"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.deliveries", str(folder)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    port = int(await child.stdout.readline())
    try:
        yield f"http://127.0.0.1:{port}", lambda: [line.split() for line in path.open()]
    finally:
        child.terminate()
        await child.wait()


@contextlib.asynccontextmanager
async def endpoint(bus: EventBus, name: str, url: str, pattern: str = "b.*") -> AsyncIterator[int]:
    made = await bus.endpoints.add(
        name, url, secret=SECRET, patterns=[pattern], max_in_flight=IN_FLIGHT
    )
    yield made.id
    await bus.endpoints.remove(name)


async def route(bus: EventBus) -> None:
    """Have the router read what is there."""
    while await route_page(bus.database):
        pass


async def bare(url: str, count: int) -> float:
    """Signed POSTs a second by aiohttp, ten at a time, of bodies like those of the events."""
    left, keys = [str(uuid.uuid4()) for _ in range(count)], read_secrets(SECRET)
    body = b'{"id": "x", "type": "b.tick", "data": {"number": 1}}' + b" " * 150
    async with aiohttp.ClientSession() as client:

        async def work() -> None:
            while left:
                signed = signature_headers(keys, left.pop(), int(time.time()), body)
                async with client.post(url, data=body, headers=signed) as answer:
                    await answer.read()
                    assert answer.ok

        begun = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return count / (time.perf_counter() - begun)


async def delivery_rate(bus: EventBus, url: str, count: int, quick: int) -> float:
    """Deliveries a second, over the first ``quick``; routing is part of it."""
    async with endpoint(bus, "rate", url):
        for start in range(0, count, 500):
            await bus.emit_many(
                [("b.tick", None, {"number": n}) for n in range(start, start + 500)]
            )
        worker = bus.deliverer()
        begun = time.perf_counter()
        running = asyncio.create_task(worker.run())
        await _delivered(quick, worker)
        seconds = time.perf_counter() - begun
        await _delivered(count, worker)
        worker.stop()
        await running
    return quick / seconds


async def delivering(bus: EventBus, url: str, count: int = 4_000) -> list[Result]:
    await bare(f"{url}/ok", 200)
    plain = await bare(f"{url}/ok", count)
    rate = await delivery_rate(bus, f"{url}/ok", count, count)
    quick = count - count // SLOW_EVERY
    even = await delivery_rate(bus, f"{url}/ok", count, quick)
    slow = await delivery_rate(bus, f"{url}/slow", count, quick)
    return [
        Result("deliveries", rate, "signed POSTs", plain, "a second", 0.7),
        Result("deliveries, 2 % answered after 3 s", slow, "none", even, "a second", 0.8),
    ]


async def hanging(
    bus: EventBus, url: str, came: Callable[[], list[list[str]]], waiting: int
) -> Result:
    """A healthy endpoint's lag beside one that never answers, with many behind it."""
    async with endpoint(bus, "hangs", f"{url}/hang", "none.*") as hangs:
        await insert_waiting(bus.database, hangs, waiting)
        await route(bus)
        async with endpoint(bus, "healthy", f"{url}/healthy"):
            worker = bus.deliverer()
            running = asyncio.create_task(worker.run())
            for _ in range(200):
                await bus.emit("b.tick")
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)
            worker.stop()
            running.cancel()
            await asyncio.wait({running})
            rows = await fetch(
                bus.database,
                "SELECT id::text, extract(epoch FROM created_at)::float8 AS at FROM system_events "
                "WHERE event_type = 'b.tick'",
            )
    emitted = {row["id"]: row["at"] for row in rows}
    lags = [float(at) - emitted[one] for path, one, at in came() if path == "/healthy"]
    assert len(lags) == 200, len(lags)
    return at_most(
        f"lag, p99, beside one that hangs with {waiting:,} behind", part(lags, 0.99), 1.0
    )


async def insert_waiting(database: Database, endpoint_id: int, count: int) -> None:
    await execute(
        database,
        "WITH made AS (INSERT INTO system_events (event_type) SELECT 'none.tick' "
        "FROM generate_series(1, :count) RETURNING id, created_at) "
        "INSERT INTO event_deliveries (event_id, endpoint_id, event_at, due_at) "
        "SELECT id, :id, created_at, created_at FROM made",
        id=endpoint_id,
        count=count,
    )
    await execute(database, "ANALYZE event_deliveries")
    await execute(database, "ANALYZE system_events")


async def outage(
    bus: EventBus,
    url: str,
    came: Callable[[], list[list[str]]],
    folder: Path,
    seconds: float,
) -> list[Result]:
    """An endpoint that answers 503 for a while, with pauses as much shorter than an hour's."""
    scale = 3_600 / seconds
    usual = endpoints.FIRST_PAUSE, endpoints.LONGEST_PAUSE
    endpoints.FIRST_PAUSE, endpoints.LONGEST_PAUSE = 1, max(1, round(usual[1] / scale))
    down = folder / "down"
    async with endpoint(bus, "flaky", f"{url}/flaky"):
        workers = [bus.deliverer(), bus.deliverer()]
        running = [asyncio.create_task(worker.run()) for worker in workers]
        # it goes down while all that may be is in flight
        await bus.emit_many([("b.tick",)] * 500)
        await _delivered(50, *workers)
        down.touch()
        before = sum(path == "/flaky" for path, _, _ in came())
        end, emitted = time.monotonic() + seconds, 500
        while time.monotonic() < end:
            await bus.emit("b.tick")
            emitted += 1
            await asyncio.sleep(0.1)
        requests = sum(path == "/flaky" for path, _, _ in came()) - before
        down.unlink()
        begun = time.perf_counter()
        await _delivered(emitted, *workers)
        back = time.perf_counter() - begun
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
        dead = await scalar(
            bus.database,
            "SELECT count(*) FROM event_deliveries WHERE due_at IS NULL AND delivered_at IS NULL",
        )
    endpoints.FIRST_PAUSE, endpoints.LONGEST_PAUSE = usual
    assert not dead
    what = f"an hour's outage in {seconds:.0f} s, two workers"
    return [
        at_most(f"{what}: requests", requests, 2 * IN_FLIGHT + 20, ""),
        at_most(f"{what}: all delivered after", back, max(300 / scale, 10)),
    ]


async def many_waiting(bus: EventBus, count: int) -> list[Result]:
    made = await bus.endpoints.add("many", "https://hook.example/", patterns=["none.*"])
    await insert_waiting(bus.database, made.id, count)
    statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {claiming._CLAIM.format(limit=25)}"
    taken = []
    async with bus.database.session() as session:
        for _ in range(10):
            async with driver_in(session) as driver:
                plan = await driver.fetchval(statement, [made.id], [None], uuid.uuid4(), 1.0)
            taken.append(plan[0]["Execution Time"])
            await session.rollback()
    await bus.endpoints.remove("many")
    dropped = await retained(bus, count)
    return [
        at_most(f"claim of 25 where {count:,} wait, least of 10", min(taken), 1.0, "ms"),
        at_most(f"retention of {count:,} events", dropped, 1.0),
    ]


async def retained(bus: EventBus, count: int) -> float:
    await execute(bus.database, "SELECT atlas_event_partition(current_date - 20)")
    await execute(
        bus.database,
        "INSERT INTO system_events (event_type, created_at) SELECT 'none.tick', "
        "current_date - 20 + interval '1 hour' FROM generate_series(1, :count)",
        count=count,
    )
    await execute(bus.database, "DELETE FROM event_cursors")
    begun = time.perf_counter()
    assert (await bus.retain()).dropped == 1
    return time.perf_counter() - begun


def receive(folder: Path) -> None:
    verifier, slow = Webhook(SECRET), 0
    out = (folder / "came").open("ab", buffering=0)

    async def handle(request: aiohttp.web.Request) -> aiohttp.web.Response:
        nonlocal slow
        body = await request.read()
        verifier.verify(body.decode(), dict(request.headers))
        out.write(f"{request.path} {request.headers['webhook-id']} {time.time()}\n".encode())
        if request.path == "/hang":
            await asyncio.Event().wait()
        if request.path == "/slow":
            slow += 1
            if slow % SLOW_EVERY == 0:
                await asyncio.sleep(SLOW_SECONDS)
        is_down = request.path == "/flaky" and (folder / "down").exists()
        return aiohttp.web.Response(status=503 if is_down else 204)

    async def serve() -> None:
        app = aiohttp.web.Application()
        app.router.add_post("/{path}", handle)
        runner = aiohttp.web.AppRunner(app, access_log=None)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


async def _delivered(count: int, *workers: Any) -> None:
    """Wait until the workers have delivered so many."""
    while sum(one.delivered for one in workers) < count:  # noqa: ASYNC110  # they signal no count
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    receive(Path(sys.argv[1]))
