"""What an event is, and how its payload becomes JSON."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python
from uuid_utils.compat import uuid7

from atlas.errors import InvalidInput
from atlas.repositories.events.log import NewEvent, RecordedEvent

__all__ = ["MAX_PAYLOAD", "Event", "json_types", "make_event", "timestamp"]

#: Largest payload in bytes of JSON.
MAX_PAYLOAD = 262_144
MAX_TYPE = 256
_TYPE = re.compile(r"[a-zA-Z0-9_.]+")
# made once: that takes longer than most payloads
_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as handlers and listeners get it.

    ``payload`` holds JSON types only; every handler gets the same one, so leave it as it is. ``id``
    is a UUID of
    version 7. ``seq``, the place in the log, and ``created_at``, by the database's clock, are None
    where the row
    could not be written. The event reads like its payload too: ``event["video_id"]``, ``event.get(...)``.
    """

    event_type: str
    entity_id: str | None
    payload: dict[str, Any]
    id: uuid.UUID = field(default_factory=uuid7)
    seq: int | None = None
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

    @classmethod
    def of(cls, row: RecordedEvent) -> Event:
        """The event of a row."""
        return cls(row.event_type, row.entity_id, row.payload, row.id, row.seq, row.created_at)


def make_event(event_type: object, entity_id: object, payload: object) -> tuple[Event, NewEvent]:
    """An `Event` with its payload in JSON types (dates as ISO 8601, enums by value, sets as lists),
    and its row.

    A mapping as ``entity_id`` without a payload is the payload. Raises `InvalidInput` naming the field.
    """
    if not isinstance(event_type, str) or not _TYPE.fullmatch(event_type):
        raise InvalidInput(
            "event_type must be a text of letters, digits, _ and .", field="event_type"
        )
    if len(event_type) > MAX_TYPE:
        raise InvalidInput(
            f"event_type has {len(event_type)} characters; {MAX_TYPE} are taken", field="event_type"
        )
    if payload is None and isinstance(entity_id, Mapping):
        entity_id, payload = None, entity_id
    if payload is None:
        payload = {}
    elif not isinstance(payload, Mapping):
        raise InvalidInput(f"payload of {event_type} must be a mapping", field="payload")
    entity = None if entity_id is None else _entity(entity_id)
    data, text = json_types(payload, "payload")
    # four bytes a character at most: most payloads need no counting
    if len(text) > MAX_PAYLOAD // 4 and len(text.encode()) > MAX_PAYLOAD:
        raise InvalidInput(
            f"payload of {event_type} is larger than {MAX_PAYLOAD} bytes of JSON", field="payload"
        )
    event = Event(event_type, entity, data)
    return event, NewEvent(event.id, event_type, entity, text)


def timestamp(moment: datetime) -> str:
    """A time as events tell it outside of Python: RFC 3339, in UTC."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def json_types(value: Mapping[Any, Any], field: str) -> tuple[dict[str, Any], str]:
    """``value`` in JSON types that PostgreSQL can store, and its text. Raises `InvalidInput`: NaN,
    cycles, surrogates, ...
    """
    try:
        data = _storable(to_jsonable_python(dict(value)))
        text = _encode(data)
        text.encode()
    except Exception as error:  # a value's own methods may raise anything
        raise InvalidInput(
            f"{field} has no JSON form: {type(error).__name__}", field=field
        ) from error
    assert isinstance(data, dict)
    return data, text


def _entity(value: object) -> str:
    try:
        text: str = _storable(str(value))
        text.encode()
    except Exception as error:
        raise InvalidInput(
            f"entity_id is not text: {type(error).__name__}", field="entity_id"
        ) from error
    return text


def _storable(value: Any) -> Any:
    """``value`` without U+0000, which JSON knows but PostgreSQL's text and jsonb do not."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value
