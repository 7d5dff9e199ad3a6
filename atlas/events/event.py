"""What an event is, and how its payload becomes JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import to_jsonable_python

from atlas.errors import InvalidInput

__all__ = ["Event", "make_event"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as handlers get it.

    ``payload`` holds JSON types only; every handler gets the same one, so leave it as it is. ``id``
    is the row's, None where the row could not be written; ``created_at`` is by the database's
    clock, None likewise. The event reads like its payload too: ``event["video_id"]``, ``event.get(...)``.
    """

    event_type: str
    entity_id: str | None
    payload: dict[str, Any]
    id: int | None = None
    created_at: datetime | None = None

    def __getitem__(self, name: str) -> Any:
        """The payload's value of that name. Raises `KeyError`."""
        return self.payload[name]

    def __contains__(self, name: object) -> bool:
        """Whether the payload has that name."""
        return name in self.payload

    def __iter__(self) -> Iterator[str]:
        """The names in the payload."""
        return iter(self.payload)

    def keys(self) -> KeysView[str]:
        """The names in the payload, so that ``dict(event)`` is a copy of it."""
        return self.payload.keys()

    def get(self, name: str, default: Any = None) -> Any:
        """The payload's value of that name, or ``default``."""
        return self.payload.get(name, default)


def make_event(event_type: str, entity_id: object, payload: object) -> Event:
    """An `Event` with its payload in JSON types: dates as ISO 8601, enums by value, sets as lists.

    A mapping as ``entity_id`` without a payload is the payload. Raises `InvalidInput` for what has
    no JSON form: NaN, infinities, cycles, objects of unknown classes.
    """
    if not isinstance(event_type, str) or not event_type.strip():
        raise InvalidInput("event_type must be a text that is not empty", field="event_type")
    if payload is None and isinstance(entity_id, Mapping):
        entity_id, payload = None, entity_id
    if payload is None:
        payload = {}
    elif not isinstance(payload, Mapping):
        raise InvalidInput(f"payload of {event_type} must be a mapping", field="payload")
    try:
        data = _storable(to_jsonable_python(dict(payload)))
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"payload of {event_type} has no JSON form: {type(error).__name__}", field="payload"
        ) from error
    return Event(
        _storable(event_type), None if entity_id is None else _storable(str(entity_id)), data
    )


def _storable(value: Any) -> Any:
    """``value`` without U+0000, which JSON knows but PostgreSQL's text and jsonb do not."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
