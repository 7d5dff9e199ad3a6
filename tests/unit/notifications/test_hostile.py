"""Random hostile messages: none is refused, none raises, none tells a secret.

ATLAS_HOSTILE says how many; the default is a sample.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from atlas.config import Settings, reset_settings
from atlas.notifications import AlertLevel, Notifier
from tests.support.servers.discord import Discord
from tests.support.servers.http import LoopbackServer, loopback_server

TIMES = int(os.environ.get("ATLAS_HOSTILE", "100"))
CONFIGURED = "configured secret/with?odd#characters"
SECRETS = [
    "AIzaSyD-unknown-key-11111111111111111",
    "hf_" + "Z9" * 17,
    "hunter2-hunter2",
    CONFIGURED,
]
FORMS = ["{}", "key={}", "Authorization: Bearer {}", "postgres://me:{}@host/db", "\x00{}\ud800"]


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Endless(dict[str, Any]):
    """A mapping whose values cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise RecursionError("too deep")


def planted(chance: random.Random) -> str:
    secret = chance.choice(SECRETS)
    form = chance.choice(FORMS[1:4]) if secret.startswith("hunter2") else chance.choice(FORMS)
    return form.format(secret)


def text(chance: random.Random) -> str:
    kind = chance.randrange(7)
    if kind == 0:
        return planted(chance)
    if kind == 1:
        return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(80)))
    if kind == 2:
        return chance.choice(["", " ", "\x00", "\ud83d", "\u200b", "@everyone", "```", "😀"]) * (
            chance.randrange(3000)
        )
    if kind == 3:
        return "x" * chance.randrange(30_000) + planted(chance) + "y" * chance.randrange(30_000)
    if kind == 4 and chance.random() < 0.02:
        return ("z" * 1_000 + planted(chance)) * 10_000  # 10 MB
    return f"row {chance.random()}"


def value(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.3:
        parts = [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        return chance.choice([parts, tuple(parts), {text(chance): part for part in parts}])
    if chance.random() < 0.2:
        deep: list[Any] = []
        deep.append(deep)
        others = [None, 5, float("nan"), b"\xff", Unshowable(), deep, object, Endless(a=1)]
        return chance.choice(others)
    return text(chance)


def fields(chance: random.Random) -> Any:
    kind = chance.randrange(4)
    if kind == 0:
        return value(chance)
    if kind == 1:
        return {text(chance): value(chance) for _ in range(chance.randrange(40))}
    if kind == 2:
        names = ("name", "value", "inline")
        return [{name: value(chance) for name in names} for _ in range(chance.randrange(30))]
    return None


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        yield running


async def test_no_hostile_message_is_refused_raises_or_tells_a_secret(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", CONFIGURED)
    reset_settings()
    server.respond = discord = Discord(limit=1_000_000, window=0.01)
    url = SecretStr(f"{server.url}/alerts/token")
    notifier = Notifier(Settings(_env_file=None, discord_webhook_alerts=url))

    async def no_pause(seconds: float) -> None:
        pass

    notifier._sleep = no_pause
    notifier.rules.deadline = 1e9  # the slots lie ahead of a clock that stands still
    chance = random.Random(16)
    for number in range(TIMES):
        title, words = value(chance), value(chance)
        level = chance.choice([*AlertLevel, "critical", "\ud800", 7])
        channel = chance.choice(["alerts", "ops", "\x00", 5])
        sent = await notifier.send(title, words, channel, level, fields(chance))
        assert sent, f"message {number}"
    assert not discord.complaints and len(discord.saved) == TIMES
    received = json.dumps(discord.saved, ensure_ascii=False)
    assert not [secret for secret in SECRETS if secret in received]
