"""What an endpoint, a rule and an event may hold: wrong things are refused with the field named."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from atlas import webhook_client
from atlas.errors import InvalidInput
from atlas.events import bus, recording
from atlas.events.delivery.endpoints import check_endpoint
from atlas.events.event import MAX_PAYLOAD, make_event
from atlas.events.patterns import check_pattern, contains, to_regex

SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a b"}),
        ("url", {"url": "https://user:hunter2@host/"}),
        ("url", {"url": "https://host/\r\nX: y"}),
        ("url", {"url": f"https://{'a' * 64}.example/"}),
        ("url", {"url": "https://b\u00fccher.example/"}),
        ("url", {"url": "https://host:0/"}),
        ("url", {"url": "https:///path"}),
        ("url", {"url": "ftp://host/"}),
        ("url", {"url": "https://host..example/"}),
        ("url", {"url": "discord:nowhere"}),
        ("url", {"url": "handler:a b"}),
        ("url", {"url": "env:lower-case"}),
        ("url", {"url": 7}),
        ("secret", {"secret": "whsec_" + base64.b64encode(bytes(23)).decode()}),
        ("secret", {"secret": "whsec_" + base64.b64encode(bytes(65)).decode()}),
        ("secret", {"secret": "plain"}),
        ("next_secret", {"next_secret": f"{SECRET} {SECRET}"}),
        ("patterns", {"patterns": ["a" * 257]}),
        ("patterns", {"patterns": ["video/*"]}),
        ("patterns", {"patterns": ["[z-a]"]}),
        ("patterns", {"patterns": [""]}),
        ("condition", {"condition": {"a": float("nan")}}),
        ("condition", {"condition": {"a": "\ud800"}}),
        ("condition", {"condition": CYCLE}),
        ("condition", {"condition": [1]}),
        ("condition", {"condition": {"a": Unspeakable()}}),
        ("headers", {"headers": {"X: y": "z"}}),
        ("headers", {"headers": {"X": "a\r\nb"}}),
        ("headers", {"headers": {"Webhook-Id": "z"}}),
        ("headers", {"headers": {"Host": "z"}}),
        ("max_in_flight", {"max_in_flight": 0}),
    ],
)
def test_an_endpoint_is_refused_with_the_field_named(field: str, changes: dict[str, Any]) -> None:
    given: dict[str, Any] = {"name": "a", "url": "https://host.example/x", **changes}
    with pytest.raises(InvalidInput) as caught:
        check_endpoint(given.pop("name"), given.pop("url"), **given)
    assert caught.value.field == field
    assert "hunter2" not in str(caught.value)
    assert "plain" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a" * 93, None])
def test_a_handler_no_rule_can_name_is_refused_by_its_own_rule(name: Any) -> None:
    made = bus.EventBus()
    with pytest.raises(InvalidInput, match="a handler's name takes"):
        made.target(name)
    with pytest.raises(InvalidInput, match="a handler's name takes") as caught:
        check_endpoint("a", f"handler:{name or ''}")
    assert caught.value.field == "url"


@pytest.mark.parametrize("size", [24, 64])
def test_secrets_of_24_and_64_bytes_are_taken(size: int) -> None:
    secret = "whsec_" + base64.b64encode(bytes(size)).decode()
    made = check_endpoint("a", "https://host.example/x", secret=secret)
    assert made.secret == secret
    assert secret not in repr(made)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("event_type", ("", None, None)),
        ("event_type", ("a b", None, None)),
        ("event_type", ("a\n", None, None)),
        ("event_type", ("a" * 257, None, None)),
        ("event_type", (None, None, None)),
        ("entity_id", ("a", Unspeakable(), None)),
        ("entity_id", ("a", "\ud800", None)),
        ("payload", ("a", None, {"x": "y" * MAX_PAYLOAD})),
        ("payload", ("a", None, {"x": float("inf")})),
        ("payload", ("a", None, CYCLE)),
        ("payload", ("a", None, {Unspeakable(): 1})),
        ("payload", ("a", None, "text")),
    ],
)
def test_an_event_is_refused_with_the_field_named(field: str, given: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        make_event(*given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("pattern", "type_", "matches"),
    [
        ("video.*", "video.discovered", True),
        ("video.*", "videoxdiscovered", False),
        ("*", "anything.at.all", True),
        ("a?c", "abc", True),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("video", "video.discovered", False),
    ],
)
def test_patterns_are_globs_over_the_whole_type(pattern: str, type_: str, matches: bool) -> None:
    regex = to_regex(["nothing", check_pattern(pattern)])
    assert bool(re.match(regex, type_)) is matches


@pytest.mark.parametrize(
    ("value", "condition", "held"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": {"b": [1, 2, 3]}}, {"a": {"b": [3, 1]}}, True),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": None}, True),
        ({}, {"a": None}, False),
        ({"a": 1}, {}, True),
    ],
)
def test_a_condition_is_contained_as_postgresql_says(
    value: Any, condition: Any, held: bool
) -> None:
    assert contains(value, condition) is held


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::8.8.8.8", True),
        ("127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("2002:7f00:1::1", False),
        ("::127.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("fec0::1", False),
        ("192.88.99.1", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("64:ff9b::a83f:8110", False),
        ("224.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_an_address_and_the_one_embedded_in_it_are_judged(address: str, public: bool) -> None:
    assert webhook_client.is_public(address) is public


def test_what_an_emit_waits_for_is_over_within_five_seconds() -> None:
    assert recording.EMIT_TIMEOUT + bus.HANDLER_WAIT < 5
