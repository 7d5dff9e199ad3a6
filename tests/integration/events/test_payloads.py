"""What an event carries, as it is stored."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from atlas.db import Database
from atlas.events import Event, EventBus
from tests.support.events import rows


async def test_the_short_form_takes_the_payload_as_second_argument(
    bus: EventBus, database: Database
) -> None:
    await bus.emit("video.discovered", {"video_id": "V1"})
    (row,) = await rows(database)
    assert (row.entity_id, row.payload) == (None, {"video_id": "V1"})


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


async def test_dates_ids_enums_sets_and_dataclasses_are_stored_as_json(
    bus: EventBus, database: Database
) -> None:
    identifier = uuid.uuid4()
    payload: dict[Any, Any] = {
        "when": datetime(2026, 1, 15, 12, tzinfo=UTC),
        "id": identifier,
        "colour": Colour.RED,
        "tags": {"a"},
        "point": Point(1),
        "title": "nul\x00 😀 é",
        7: None,
    }
    await bus.emit("a", payload)
    (row,) = await rows(database)
    assert row.payload == {
        "when": "2026-01-15T12:00:00Z",
        "id": str(identifier),
        "colour": "red",
        "tags": ["a"],
        "point": {"x": 1},
        "title": "nul\ufffd 😀 é",
        "7": None,
    }


cycle: dict[str, object] = {}
cycle["self"] = cycle


@pytest.mark.parametrize(
    "payload",
    [{"a": object()}, {"a": float("nan")}, {"a": "\ud800"}, {"a": b"\xff"}, cycle, "text", [1]],
    ids=["object", "nan", "surrogate", "bytes", "cycle", "text", "list"],
)
async def test_a_payload_without_a_json_form_is_logged_and_not_raised(
    bus: EventBus, database: Database, payload: object
) -> None:
    seen: list[Event] = []
    bus.on("*")(seen.append)
    with structlog.testing.capture_logs() as logs:
        await bus.emit("a", "V1", payload)  # the mistake under test
    assert [entry["event"] for entry in logs] == ["event_emit_failed"]
    assert await rows(database) == []
    assert seen == []
