"""Many messages at once: all arrive, at Discord's pace, the important ones first."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from atlas.config import Settings
from atlas.notifications import AlertLevel, Notifier
from tests.support.halt import until
from tests.support.servers.discord import Discord
from tests.support.servers.http import LoopbackServer, Reply, loopback_server


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


def make_notifier(server: LoopbackServer) -> Notifier:
    return Notifier(
        Settings(_env_file=None, discord_webhook_alerts=SecretStr(f"{server.url}/alerts/token"))
    )


async def test_a_hundred_messages_at_once_all_arrive(server: LoopbackServer) -> None:
    server.respond = discord = Discord(window=0.4)
    notifier = make_notifier(server)
    results = await asyncio.gather(*(notifier.send(f"message {n}", "d") for n in range(100)))
    assert all(results)
    assert Counter(embed["title"] for embed in discord.embeds) == Counter(
        f"message {n}" for n in range(100)
    )
    assert discord.refused <= 2 and not discord.complaints
    assert len(discord.saved) < 25  # several in one message


async def test_a_limit_that_no_header_tells_is_waited_out(server: LoopbackServer) -> None:
    server.respond = discord = Discord(limit=50, window=0.5, hidden=(3, 2.0, 2.1))
    notifier = make_notifier(server)
    assert all(await asyncio.gather(*(notifier.send(f"{n}", "d" * 4000) for n in range(5))))
    assert sorted(embed["title"] for embed in discord.embeds) == [str(n) for n in range(5)]


async def test_critical_messages_go_first_and_the_rest_in_order(server: LoopbackServer) -> None:
    gate = threading.Event()
    discord = Discord(limit=1000, window=0.05)

    def hold(request: object) -> Reply:
        gate.wait(10)
        return discord(request)  # type: ignore[arg-type]

    server.respond = hold
    notifier = make_notifier(server)
    first = asyncio.create_task(notifier.send("first", "d"))
    await until(lambda: bool(server.requests))
    others = [asyncio.create_task(notifier.send(f"info {n}", "d")) for n in range(3)]
    await asyncio.sleep(0)
    others.append(asyncio.create_task(notifier.send("critical", "d", level=AlertLevel.CRITICAL)))
    await asyncio.sleep(0.05)
    gate.set()
    assert all(await asyncio.gather(first, *others))
    assert [embed["title"] for embed in discord.embeds] == [
        "first",
        "critical",
        "info 0",
        "info 1",
        "info 2",
    ]


async def test_beyond_two_hundred_the_least_important_are_counted(server: LoopbackServer) -> None:
    server.respond = discord = Discord(limit=1000, window=0.05)
    notifier = make_notifier(server)
    results = await asyncio.gather(
        *(notifier.send(f"info {n}", "d") for n in range(260)),
        *(notifier.send(f"warning {n}", "d", level=AlertLevel.WARNING) for n in range(30)),
    )
    saved = {embed.get("title") for embed in discord.embeds}
    assert {f"warning {n}" for n in range(30)} <= saved
    left_out = results.count(False)
    assert left_out
    told = [e["description"] for e in discord.embeds if "left out" in e.get("description", "")]
    assert sum(int(text.split()[0]) for text in told) == left_out


async def test_a_cancelled_sender_takes_nobody_elses_message_along(server: LoopbackServer) -> None:
    server.respond = discord = Discord(limit=2, window=0.6)
    notifier = make_notifier(server)
    tasks = [asyncio.create_task(notifier.send(f"{n}", "d" * 3000)) for n in range(5)]
    await asyncio.sleep(0.2)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[:2] == [True, True] and results[3:] == [True, True]
    assert {"0", "1", "3", "4"} <= {embed["title"] for embed in discord.embeds}


def test_threads_with_loops_of_their_own_share_a_lane(server: LoopbackServer) -> None:
    server.respond = discord = Discord(window=0.4)
    notifier, results = make_notifier(server), []

    def run(name: str) -> None:
        async def some() -> None:
            results.extend(
                await asyncio.gather(*(notifier.send(f"{name}{n}", "d") for n in range(6)))
            )

        asyncio.run(some())

    threads = [threading.Thread(target=run, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 18 and discord.refused <= 2


async def test_a_thousand_invalid_answers_silence_the_webhook(server: LoopbackServer) -> None:
    server.script(Reply(429, b'{"retry_after": 0}'))
    notifier = make_notifier(server)
    notifier.rules.deadline = 1e9

    async def no_pause(seconds: float) -> None:
        pass

    notifier._sleep = no_pause
    assert not await notifier.send("t", "d")
    assert len(server.requests) == 1000
    assert not await notifier.send("t", "d")
    assert len(server.requests) == 1000


async def test_webhooks_of_one_bucket_share_its_pace(server: LoopbackServer) -> None:
    server.respond = discord = Discord(limit=5, window=1.0)  # one bucket for all that come
    webhooks = {
        f"discord_webhook_{name}": SecretStr(f"{server.url}/{name}/token")
        for name in ("alerts", "ops")
    }
    notifier = Notifier(Settings(_env_file=None, **webhooks))
    assert await notifier.send("t", "d") and await notifier.send("t", "d", "ops")
    lanes = list(notifier._lanes.values())
    assert lanes[0].bucket == lanes[1].bucket and lanes[0]._paces[1] is lanes[1]._paces[1]
    # what is learnt by one holds for the other
    lanes[0]._paces[1].free_at = asyncio.get_running_loop().time() + 1e6
    assert not await notifier.send("t", "d", "ops")
    assert discord.refused == 0
