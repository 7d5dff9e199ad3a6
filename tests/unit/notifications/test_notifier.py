"""Notifications against a server that judges messages as Discord does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from atlas.config import Settings
from atlas.errors import ConfigurationError
from atlas.notifications import AlertChannel, AlertLevel, Notifier, build_message
from tests.support.servers.discord import complaints
from tests.support.servers.http import LoopbackServer, Reply, Request, loopback_server

TOKEN = "s3cr3t-webhook-token"


def discord(request: Request) -> Reply:
    if not request.path.endswith("?wait=true"):
        return Reply(204)
    problems = complaints(json.loads(request.body))
    return Reply(400, json.dumps(problems).encode()) if problems else Reply(200, b'{"id": "1"}')


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with loopback_server() as running:
        running.respond = discord
        yield running


def make_notifier(server: LoopbackServer, *channels: str) -> Notifier:
    webhooks = {
        f"discord_webhook_{name}": SecretStr(f"{server.url}/{name}/{TOKEN}")
        for name in channels or ("alerts",)
    }
    made = Notifier(Settings(_env_file=None, **webhooks))
    made.rules.delay = 0.0
    made._sleep = no_pause
    return made


async def no_pause(seconds: float) -> None:
    """The pace is another test's matter."""


def sent(server: LoopbackServer, index: int = -1) -> dict[str, Any]:
    embed: dict[str, Any] = json.loads(server.requests[index].body)["embeds"][0]
    return embed


async def test_a_message_that_discord_accepts_reaches_it_with_its_colour(
    server: LoopbackServer,
) -> None:
    assert await make_notifier(server).send(
        "Archive done", "12 slices", level=AlertLevel.SUCCESS, fields={"rows": 5, "empty": ""}
    )
    embed = sent(server)
    assert (embed["title"], embed["description"], embed["color"]) == (
        "Archive done",
        "12 slices",
        0x2ECC71,
    )
    assert [field["value"] for field in embed["fields"]] == ["5", "\u200b"]


@pytest.mark.parametrize(
    ("channel", "path"),
    [
        (AlertChannel.SURVEILLANCE, "/surveillance/"),
        ("watch", "/surveillance/"),
        ("Surveillance", "/surveillance/"),
        (AlertChannel.HUNT, "/alerts/"),  # not configured
        ("no such channel", "/alerts/"),
    ],
)
async def test_a_channel_without_its_own_webhook_falls_back_to_alerts(
    server: LoopbackServer, channel: AlertChannel | str, path: str
) -> None:
    assert await make_notifier(server, "alerts", "surveillance").send("t", "d", channel=channel)
    assert server.requests[-1].path.startswith(path)


async def test_a_level_may_be_named_and_an_unknown_one_does_not_lose_the_message(
    server: LoopbackServer,
) -> None:
    notifier = make_notifier(server)
    assert await notifier.send("t", "d", level="critical")
    assert sent(server)["color"] == AlertLevel.CRITICAL.value
    assert await notifier.send("t", "d", level="panic")
    assert sent(server)["color"] == AlertLevel.INFO.value


async def test_nothing_configured_warns_and_does_not_raise() -> None:
    with structlog.testing.capture_logs() as logs:
        assert not await Notifier(Settings(_env_file=None)).send("t", "d")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("notification_not_configured", "warning")
    ]


async def test_a_tracked_error_warns_of_no_missing_webhook() -> None:
    with structlog.testing.capture_logs() as logs:
        await Notifier(Settings(_env_file=None)).capture(ValueError("no answer"))
    assert "notification_not_configured" not in [entry["event"] for entry in logs]


async def test_every_over_long_part_is_cut_to_what_discord_takes(server: LoopbackServer) -> None:
    fields = [{"name": "n" * 300, "value": "v" * 2000, "inline": True} for _ in range(40)]
    assert await make_notifier(server).send("😀" * 300, "d" * 9000, fields=fields)
    embed = sent(server)
    assert embed["title"].endswith("😀…")
    assert embed["description"].endswith("…")
    assert embed["footer"]["text"] == f"{40 - len(embed['fields'])} more fields left out"


async def test_a_long_description_without_fields_keeps_all_that_fits(
    server: LoopbackServer,
) -> None:
    assert await make_notifier(server).send("t", "d" * 4096)
    assert sent(server)["description"] == "d" * 4096


async def test_the_fields_over_discords_number_are_left_out_and_counted(
    server: LoopbackServer,
) -> None:
    assert await make_notifier(server).send("t", "d", fields={f"n{i}": i for i in range(30)})
    embed = sent(server)
    assert [field["value"] for field in embed["fields"]] == [str(i) for i in range(25)]
    assert embed["footer"]["text"] == "5 more fields left out"


async def test_a_long_description_gives_way_to_fields(server: LoopbackServer) -> None:
    fields = {f"name {i}": "v" * 200 for i in range(12)}
    assert await make_notifier(server).send("t", "d" * 4096, fields=fields)
    embed = sent(server)
    assert len(embed["fields"]) == 12
    assert len(embed["description"]) > 3000


texts = st.text(st.characters(codec=None), max_size=40) | st.builds(
    lambda part, times: part * times, st.text(min_size=1, max_size=3), st.integers(0, 5000)
)


@given(
    texts,
    texts,
    st.lists(st.fixed_dictionaries({"name": texts, "value": texts | st.none()}), max_size=30),
)
def test_no_text_makes_a_message_that_discord_would_refuse(
    title: str, description: str, fields: list[dict[str, Any]]
) -> None:
    message = json.loads(json.dumps(build_message(title, description, AlertLevel.INFO, fields)))
    assert complaints(message) == []


async def test_a_rate_limit_is_waited_out_by_its_own_figure(server: LoopbackServer) -> None:
    server.script(Reply(429, b'{"message": "slow", "retry_after": 7.25, "global": false}'), Reply())
    notifier, pauses = make_notifier(server), []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    notifier._sleep = note
    assert await notifier.send("t", "d")
    assert len(server.requests) == 2
    # its own slot of the first try lies before it
    assert max(pauses) == pytest.approx(7.25, abs=1)


async def test_a_rate_limit_too_long_to_wait_for_silences_the_webhook_meanwhile(
    server: LoopbackServer,
) -> None:
    server.script(Reply(429, b"not json", {"Retry-After": "3600"}))
    notifier = make_notifier(server)
    assert not await notifier.send("t", "d")
    assert not await notifier.send("t", "d")
    assert len(server.requests) == 1


async def test_the_last_message_of_a_window_makes_the_next_one_wait(server: LoopbackServer) -> None:
    server.script(
        Reply(200, b"", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "3600.5"})
    )
    notifier = make_notifier(server)
    assert await notifier.send("t", "d")
    assert not await notifier.send("t", "d")
    assert len(server.requests) == 1


async def test_a_deleted_webhook_is_left_alone_and_the_message_goes_to_alerts(
    server: LoopbackServer,
) -> None:
    server.respond = lambda request: Reply(404 if request.path.startswith("/ops/") else 200)
    notifier = make_notifier(server, "alerts", "ops")
    assert await notifier.send("t", "d", AlertChannel.OPS)
    assert await notifier.send("t", "d", AlertChannel.OPS)
    assert [request.path.split("/")[1] for request in server.requests] == [
        "ops",
        "alerts",
        "alerts",
    ]


@pytest.mark.parametrize("status", [301, 400, 401, 403])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(
    server: LoopbackServer, status: int
) -> None:
    server.script(Reply(status, b"", {"Location": f"{server.url}/elsewhere"}))
    assert not await make_notifier(server).send("t", "d")
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", [Reply(500), Reply(503), Reply(cut=True)])
async def test_a_passing_failure_is_tried_again(server: LoopbackServer, trouble: Reply) -> None:
    server.script(trouble, trouble, Reply())
    assert await make_notifier(server).send("t", "d")
    assert len(server.requests) == 3


async def test_a_server_that_never_answers_is_given_up(server: LoopbackServer) -> None:
    server.script(Reply(hang=True))
    notifier = make_notifier(server)
    notifier.rules.timeout, notifier.rules.attempts = 0.05, 2
    assert not await notifier.send("t", "d")
    assert len(server.requests) == 2


async def test_no_log_line_holds_the_webhook_address(server: LoopbackServer) -> None:
    notifier = make_notifier(server)
    notifier.rules.attempts = 2
    notifier._sleep = no_pause
    with structlog.testing.capture_logs() as logs:
        for reply in (Reply(500), Reply(cut=True), Reply(404)):
            server.script(reply)
            await notifier.send("t", "d")
        broken = Settings(_env_file=None, discord_webhook_alerts=SecretStr(f"ftp://x/{TOKEN}"))
        await Notifier(broken).send("t", "d")
    assert len(logs) == 4
    assert TOKEN not in repr(logs)


async def test_fields_of_a_wrong_shape_cost_themselves_only(server: LoopbackServer) -> None:
    wrong: Any = [("a", "b"), {"name": "good", "value": 1}]
    assert await make_notifier(server).send("t", "d", fields=wrong)
    assert [field["name"] for field in sent(server)["fields"]] == ["good"]


def test_one_notifier_serves_two_event_loops(server: LoopbackServer) -> None:
    notifier = make_notifier(server)
    assert asyncio.run(notifier.send("t", "d"))
    assert asyncio.run(notifier.send("t", "d"))


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/api/webhooks/1/" + TOKEN,
        "http://discord.com/api/webhooks/1/" + TOKEN,
        "https://discord.com.evil.example/api/webhooks/1/" + TOKEN,
        "https://notdiscord.com/api/webhooks/1/" + TOKEN,
        "https://discord.com@evil.example/" + TOKEN,
    ],
)
async def test_outside_dev_and_test_a_webhook_is_at_discord_unless_allowed(url: str) -> None:
    own: dict[str, Any] = {"env": "prod", "discord_webhook_alerts": SecretStr(url)}
    made = Notifier(Settings(_env_file=None, **own))
    with pytest.raises(ConfigurationError) as caught:
        made._lanes_of(AlertChannel.ALERTS)
    assert TOKEN not in str(caught.value)
    with structlog.testing.capture_logs() as logs:
        assert not await made.send("t", "d")
    assert logs and TOKEN not in str(logs)


def test_discords_own_hosts_and_allowed_ones_are_taken() -> None:
    for url, allowed in (
        ("https://discord.com/api/webhooks/1/x", False),
        ("https://ptb.discord.com/api/webhooks/1/x", False),
        ("https://discordapp.com/api/webhooks/1/x", False),
        ("https://relay.example/hook", True),
    ):
        made = Settings(
            _env_file=None,
            env="prod",
            discord_webhook_alerts=SecretStr(url),
            discord_allow_other_hosts=allowed,
        )
        assert len(Notifier(made)._lanes_of(AlertChannel.ALERTS)) == 1
