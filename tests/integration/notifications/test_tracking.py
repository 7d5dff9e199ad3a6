"""Errors in groups: one message for many, exact counts, nothing raised and nothing secret."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.config import Settings
from atlas.db import Database
from atlas.notifications import AlertLevel, Notifier
from atlas.repositories.notifications import ErrorGroups, Lanes, Tally
from tests.support.cli import Run
from tests.support.servers.discord import Discord
from tests.support.servers.http import LoopbackServer, Reply, loopback_server
from tests.support.sql import execute, fetch, scalar


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


@pytest.fixture
def discord(server: LoopbackServer) -> Discord:
    server.respond = made = Discord(limit=50, window=0.2)
    return made


def make_notifier(server: LoopbackServer, database: Database | None) -> Notifier:
    settings = Settings(
        _env_file=None, discord_webhook_alerts=SecretStr(f"{server.url}/alerts/token")
    )
    return Notifier(settings, database)


def error(text: str = "no answer", kind: type[Exception] = ValueError) -> Exception:
    try:
        raise kind(text)
    except kind as raised:
        return raised


async def test_many_errors_of_one_kind_are_one_message_and_an_exact_count(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifiers = [make_notifier(server, database) for _ in range(3)]
    for number in range(300):
        notifiers[number % 3].capture(error(f"row {number}"), {"row": number})
    await asyncio.gather(*(one.flush() for one in notifiers))
    [embed] = discord.embeds
    assert embed["title"].startswith("ValueError in ")
    [group] = await fetch(database, "SELECT * FROM error_groups")
    assert (group["count"], group["state"], group["algorithm"]) == (300, "open", 1)
    # five minutes later one of them sends a digest
    await execute(database, "UPDATE error_groups SET digest_at = now()")
    assert sum(await asyncio.gather(*(one.digests() for one in notifiers))) == 1
    assert await notifiers[0].digests() == 0
    assert discord.embeds[-1]["title"].startswith(f"{300 - group['announced']} more: ValueError")


async def test_a_group_whose_announcement_was_lost_is_told_by_the_digest(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    server.respond = lambda request: Reply(404)
    lost = make_notifier(server, database)
    await lost.capture(error("first"))
    assert await scalar(database, "SELECT announced FROM error_groups") == 0
    server.respond = discord
    await execute(database, "UPDATE error_groups SET digest_at = now()")
    await execute(database, "TRUNCATE notification_lanes")
    assert await make_notifier(server, database).digests() == 1
    [embed] = discord.embeds
    assert embed["title"].startswith("ValueError in ")
    assert await lost.digests() == 0


async def test_a_hundred_digests_at_once_are_eleven_messages(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    tallies = [Tally(f"kind {n}", 1, "ValueError", "x", "", "ERROR", "", {}, 2) for n in range(100)]
    async with database.transaction() as session:
        assert len(await ErrorGroups(session).add(tallies)) == 100
        await ErrorGroups(session).confirm({one.fingerprint: 1 for one in tallies})
    await execute(database, "UPDATE error_groups SET digest_at = now()")
    assert await make_notifier(server, database).digests() == 100
    titles = [embed["title"] for embed in discord.embeds]
    assert len(titles) == 11 and titles[-1] == "90 more kinds of errors that go on"
    assert titles[0].startswith("1 more: ")


async def test_a_resolved_group_that_comes_back_is_a_regression_and_a_muted_one_is_silent(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifier = make_notifier(server, database)
    mark = await notifier.capture(error())
    for state, messages in (("muted", 1), ("resolved", 2)):
        async with database.transaction() as session:
            assert await ErrorGroups(session).set_state([mark], state) == [mark]
        await notifier.capture(error())
        assert len(discord.embeds) == messages
    assert discord.embeds[-1]["title"].startswith("Regression: ")
    assert await scalar(database, "SELECT count FROM error_groups") == 3


async def test_the_members_of_a_group_are_separate_and_a_given_fingerprint_joins(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifier = make_notifier(server, database)
    await notifier.capture(ExceptionGroup("both", [error("a"), error("b", KeyError)]))
    assert await scalar(database, "SELECT count(*) FROM error_groups") == 2
    for kind in (OSError, TypeError):
        await notifier.capture(error("c", kind), fingerprint="mine", level=AlertLevel.WARNING)
    [group] = await fetch(database, "SELECT * FROM error_groups WHERE fingerprint = 'mine'")
    assert (group["count"], group["level"]) == (2, "WARNING")


async def test_a_thousand_kinds_at_once_are_a_dozen_messages(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifier = make_notifier(server, database)
    for number in range(1000):
        notifier.capture(error(), fingerprint=f"kind {number}")
    await notifier.flush()
    assert len(discord.embeds) <= 11
    assert await scalar(database, "SELECT count(*), sum(count) FROM error_groups") == 1000


async def test_without_a_database_a_group_is_announced_once_and_counted_later(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/none")
    notifier = make_notifier(server, nowhere)
    for _ in range(5):
        await notifier.capture(error())
    assert len(discord.embeds) == 1
    notifier.shared._database, notifier.shared._rests_until = database, 0.0
    await notifier.capture(error())
    assert await scalar(database, "SELECT count FROM error_groups") == 6
    await nowhere.close()


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __getitem__(self, key: object) -> object:
        return self


async def test_nothing_that_is_captured_raises_or_tells_a_secret(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifier = make_notifier(server, database)
    deep: Any = []
    deep.append(deep)
    secret = "AIzaSyD-unknown-key-11111111111111111"
    for value in (Hostile(), deep, "\ud800\x00", "x" * 10_000_000, {1: Hostile()}, None, secret):
        await notifier.capture(ValueError(value), {"value": value, "api_key": "hunter2-hunter2"})
        await notifier.capture(value)  # type: ignore[arg-type]
        await notifier.send(value, value, fields={"value": value})  # type: ignore[dict-item]
    assert not discord.complaints
    seen = json.dumps(discord.saved) + str(await fetch(database, "SELECT * FROM error_groups"))
    assert secret not in seen and "hunter2" not in seen


async def test_watch_captures_and_raises(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifier = make_notifier(server, database)

    @notifier.watch
    def plain(number: int) -> int:
        return 1 // number

    @notifier.watch
    async def waiting(number: int) -> int:
        return 1 // number

    assert plain(1) == await waiting(1) == 1
    with pytest.raises(ZeroDivisionError):
        plain(0)
    with pytest.raises(ZeroDivisionError):
        await waiting(0)
    await notifier.flush()
    assert await scalar(database, "SELECT sum(count) FROM error_groups") == 2


async def test_processes_share_the_pace_and_a_dead_webhook(database: Database) -> None:
    async with database.transaction() as session:
        lanes = Lanes(session)
        slots = [await lanes.reserve("w", 0.5) for _ in range(3)]
        assert [round(slot.wait, 1) for slot in slots] == [0.0, 0.5, 1.0]
        await lanes.note("w", pause=40, dead=False, invalid=True)
        assert (await lanes.reserve("w", 0.5)).wait == pytest.approx(40, abs=1)
        await lanes.note("w", pause=0, dead=True, invalid=True)
        assert (await lanes.reserve("w", 0.5)).dead


async def test_webhooks_of_one_bucket_take_slots_from_one_row(database: Database) -> None:
    async with database.transaction() as session:
        lanes = Lanes(session)
        waits = [(await lanes.reserve(one, 0.5, "bucket")).wait for one in "abab"]
        assert [round(wait, 1) for wait in waits] == [0.0, 0.5, 1.0, 1.5]
        await lanes.note("a", pause=40, dead=True, invalid=True, bucket="bucket")
        other = await lanes.reserve("b", 0.5, "bucket")
        assert other.wait == pytest.approx(40, abs=1) and not other.dead
        assert (await lanes.reserve("a", 0.5)).dead


async def test_new_kinds_are_announced_ten_a_minute_by_all_processes_together(
    database: Database, server: LoopbackServer, discord: Discord
) -> None:
    notifiers = [make_notifier(server, database) for _ in range(3)]
    for number in range(60):
        notifiers[number % 3].capture(error(), fingerprint=f"kind {number}")
    await asyncio.gather(*(one.flush() for one in notifiers))
    titles = [embed["title"] for embed in discord.embeds]
    assert sum("ValueError in" in title for title in titles) == 10
    assert sum("more new kinds" in title for title in titles) == 1


_CHILD = """
import asyncio, sys
from atlas import notifier
try:
    raise ValueError("the last words")
except ValueError as error:
    notifier.capture(error)
"""


async def test_what_is_captured_at_the_very_end_is_counted(
    database: Database, database_url: str, server: LoopbackServer, discord: Discord
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url,
        "DISCORD_WEBHOOK_ALERTS": f"{server.url}/alerts/token",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, env=environment, stderr=subprocess.PIPE
    )
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (0, b"")
    assert await scalar(database, "SELECT count FROM error_groups") == 1
    assert len(discord.embeds) == 1


async def test_the_command_line_lists_shows_mutes_and_resolves(
    atlas: Run, database: Database, database_url: str, server: LoopbackServer, discord: Discord
) -> None:
    mark = await make_notifier(server, database).capture(error(), {"where": "here"})
    listed = json.loads(atlas("errors", "list", "--json", DATABASE_URL=database_url).stdout)
    assert [(one["fingerprint"], one["count"]) for one in listed] == [(mark, 1)]
    shown = atlas("errors", "show", mark[:6], DATABASE_URL=database_url).stdout
    assert "no answer" in shown and "where: here" in shown
    assert atlas("errors", "mute", mark[:6], DATABASE_URL=database_url).returncode == 0
    assert await scalar(database, "SELECT state FROM error_groups") == "muted"
    missing = atlas("errors", "resolve", "nothing", DATABASE_URL=database_url)
    assert missing.returncode == 1 and "atlas errors list" in missing.stderr
