"""Whether notifications arrive and errors are counted, against a Discord that limits as it is documented.

Five messages in two seconds, told in headers; 429 with a body; a limit that no header tells. What takes
several processes takes real ones, which share PostgreSQL.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, event, text

from atlas.config import Settings
from atlas.db import Database
from atlas.notifications import Notifier, notifier
from benchmarks.support import Result
from tests.support.servers.discord import Discord
from tests.support.servers.http import LoopbackServer, loopback_server

PROCESSES = 8


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    """Every figure, one after the other."""
    return [
        *await at_once(),
        *await in_processes(database),
        *await hidden_limit(),
        *await same_errors(database),
        *await distinct_errors(database),
        *await without_database(database),
        capture_cpu(),
    ]


def at_least(what: str, found: float, wanted: float, unit: str = "") -> Result:
    return Result(what, found, "wanted", wanted, unit, 1.0)


def at_most(what: str, found: float, most: float, unit: str = "") -> Result:
    return Result(what, found, "at most", most, unit, 1.0, most=True)


@contextmanager
def discord_server(**limits: object) -> Iterator[tuple[LoopbackServer, Discord]]:
    with loopback_server() as server:
        server.respond = discord = Discord(**limits)  # type: ignore[arg-type]
        yield server, discord
    assert not discord.complaints, discord.complaints


def make_notifier(server: LoopbackServer, database: Database | None = None) -> Notifier:
    url = SecretStr(f"{server.url}/alerts/token")
    return Notifier(Settings(_env_file=None, discord_webhook_alerts=url), database)


async def at_once() -> list[Result]:
    with discord_server() as (server, discord):
        one = make_notifier(server)
        sent = await asyncio.gather(*(one.send(f"message {n}", "text") for n in range(100)))
        titles = {embed["title"] for embed in discord.embeds}
    return [
        at_least("100 at once: contents delivered", len(titles), 100),
        at_least("100 at once: True returned", sum(sent), 100),
        at_most("100 at once: answers of 429", discord.refused, 2),
    ]


async def in_processes(database: Database) -> list[Result]:
    with discord_server() as (server, discord):
        said = await children(database, server, "send", 12)
        titles = {embed["title"] for embed in discord.embeds}
    return [
        at_least("8 processes x 12: contents delivered", len(titles), 96),
        at_least("8 processes x 12: True returned", sum(int(one.split()[0]) for one in said), 96),
        at_most("8 processes x 12: answers of 429", discord.refused, 8),
    ]


async def hidden_limit() -> list[Result]:
    with discord_server(hidden=(30, 60.0, 42.0)) as (server, discord):
        one = make_notifier(server)
        # long ones, which are not packed
        sent = await asyncio.gather(*(one.send(f"{n}", "d" * 4_000) for n in range(40)))
    return [
        at_least("hidden 30 a minute, 40 long ones: delivered", sum(sent), 40),
        at_most("hidden 30 a minute: answers of 429", discord.refused, 4),
    ]


async def same_errors(database: Database) -> list[Result]:
    with discord_server() as (server, discord):
        said = await children(database, server, "same", 125)
        early = len(discord.embeds)
        async with database.transaction() as session:
            await session.execute(text("UPDATE error_groups SET digest_at = now()"))
        await make_notifier(server, database).digests()
        messages = len(discord.embeds)
        async with database.transaction() as session:
            count, groups = (
                await session.execute(text("SELECT sum(count), count(*) FROM error_groups"))
            ).one()
            await session.execute(text("TRUNCATE error_groups"))
    # the digest: who has one to send, and a slot of the webhook
    statements = sum(int(one.split()[1]) for one in said) + 2
    # on a busy machine the five seconds at exit may be too short to announce it: the digest does then
    assert groups == 1 and early <= 1 <= messages, (groups, early, messages)
    return [
        at_least("1,000 same in 8 processes: counted", int(count), 1_000),
        at_most("1,000 same: messages with the digest", messages, 2),
        at_most("1,000 same: statements", statements, 20),
    ]


async def distinct_errors(database: Database) -> list[Result]:
    with discord_server() as (server, discord):
        await children(database, server, "distinct", 125)
        async with database.transaction() as session:
            count = await session.scalar(text("SELECT sum(count) FROM error_groups"))
            await session.execute(text("TRUNCATE error_groups"))
    return [
        at_least("1,000 distinct in 8 processes: counted", int(count), 1_000),
        at_most("1,000 distinct: messages", len(discord.embeds), 11),
    ]


async def without_database(database: Database) -> list[Result]:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none")
    with discord_server() as (server, discord):
        one = make_notifier(server, nowhere)
        for _ in range(20):
            await one.capture(raised())
        messages = len(discord.embeds)
        one.shared._database, one.shared._rests_until = database, 0.0
        await one.capture(raised())
        async with database.transaction() as session:
            count = await session.scalar(text("SELECT sum(count) FROM error_groups"))
            await session.execute(text("TRUNCATE error_groups"))
    await nowhere.close()
    return [
        at_most("PostgreSQL down: messages of a group", messages, 1),
        at_least("PostgreSQL down: counted afterwards", int(count), 21),
    ]


def capture_cpu() -> Result:
    one = Notifier(Settings(_env_file=None))
    error, times = raised(), 2_000
    one.capture(error, {"row": 0})
    begun = time.thread_time()
    for number in range(times):
        one.capture(error, {"row": number})
    seconds = (time.thread_time() - begun) / times
    return at_most("capture: CPU", seconds * 1e6, 200, "us")


def raised(text: str = "no answer") -> Exception:
    try:
        raise ConnectionError(text)
    except ConnectionError as error:
        return error


# --- processes of their own


async def children(database: Database, server: LoopbackServer, what: str, times: int) -> list[str]:
    """What each printed; they begin together."""
    environment = {
        **os.environ,
        "DATABASE_URL": str(database._url),
        "DISCORD_WEBHOOK_ALERTS": f"{server.url}/alerts/token",
    }
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.notifications", what, str(times), str(number)),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for one in started:
        assert one.stdout is not None
        await one.stdout.readline()
    outputs = await asyncio.gather(*(one.communicate(b"go\n") for one in started))
    assert not any(one.returncode for one in started)
    return [output.decode().strip() for output, _ in outputs]


async def send(times: int, number: int) -> int:
    sent = await asyncio.gather(*(notifier.send(f"{number}: {n}", "text") for n in range(times)))
    return sum(sent)


def main(what: str, times: int, number: int) -> None:
    statements, sent = 0, 0

    def count(connection: object, cursor: object, statement: str, *rest: object) -> None:
        nonlocal statements
        statements += "notification_lanes" in statement or "error_groups" in statement

    event.listen(Engine, "before_cursor_execute", count)
    atexit.register(lambda: print(sent, statements, flush=True))
    print("ready", flush=True)
    sys.stdin.readline()
    if what == "send":
        sent = asyncio.run(send(times, number))
    for n in range(times if what != "send" else 0):
        kind = f"kind {number} {n}" if what == "distinct" else None
        notifier.capture(raised(f"row {n}"), {"row": n}, fingerprint=kind)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
