"""Messages as Discord takes them.

The limits are Discord's (discord-api-docs: "Embed limits"). Lengths are counted in UTF-16 units, which are
never fewer than the characters Discord counts.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from atlas.logging import get_logger
from atlas.redaction import MARGIN, redact
from atlas.types import AlertChannel, AlertLevel

__all__ = [
    "Fields",
    "build_embed",
    "build_message",
    "find_channel",
    "find_level",
    "payload",
    "units",
]

log = get_logger(__name__)

TITLE_LIMIT = 256
DESCRIPTION_LIMIT = 4096
FIELDS_LIMIT = 25
NAME_LIMIT = 256
VALUE_LIMIT = 1024
#: Characters in all embeds of a message together.
TOTAL_LIMIT = 6000
#: What the description leaves to the fields where both are long.
DESCRIPTION_SHARE = 3000
#: Kept for the footer that counts the fields that were left out.
FOOTER_SHARE = 64
#: Fields that are looked at, and characters of a value.
_MOST_FIELDS = 1_000
_LONGEST = 20_000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")
#: Discord takes a field without a visible name or value only with this in its place.
BLANK = "\u200b"

Fields = Mapping[str, Any] | Iterable[Mapping[str, Any]]


#: Embeds in a message.
EMBEDS_LIMIT = 10


def build_message(
    title: object, description: object, level: AlertLevel, fields: Fields | None
) -> dict[str, Any]:
    """A message of one embed."""
    return payload([build_embed(title, description, level, fields)])


def payload(embeds: list[dict[str, Any]]) -> dict[str, Any]:
    """A message of embeds, which mentions nobody."""
    return {"embeds": embeds, "allowed_mentions": {"parse": []}}


def units(embed: Mapping[str, Any]) -> int:
    """What an embed weighs towards `TOTAL_LIMIT`, which holds for all embeds of a message together."""
    texts = [embed.get("title", ""), embed.get("description", "")]
    texts.append(embed.get("footer", {}).get("text", ""))
    for field in embed.get("fields", ()):
        texts += [field["name"], field["value"]]
    return sum(map(_units, texts))


def build_embed(
    title: object, description: object, level: AlertLevel, fields: Fields | None
) -> dict[str, Any]:
    """An embed within Discord's limits, without secrets. Raises nothing, whatever it is given."""
    title, description = _clip(title, TITLE_LIMIT), _clip(description, DESCRIPTION_LIMIT)
    entries = list(_entries(fields))
    wanted = sum(_units(entry["name"]) + _units(entry["value"]) for entry in entries)
    room = TOTAL_LIMIT - FOOTER_SHARE - _units(title)
    description = _clip(description, max(DESCRIPTION_SHARE, room - wanted))
    room -= _units(description)

    kept: list[dict[str, Any]] = []
    for entry in entries[:FIELDS_LIMIT]:
        left = room - _units(entry["name"])
        if left < min(_units(entry["value"]), 16):
            break
        entry["value"] = _clip(entry["value"], left)
        room = left - _units(entry["value"])
        kept.append(entry)

    embed: dict[str, Any] = {
        "title": title or (BLANK if not description and not kept else ""),
        "description": description,
        "color": level.value,
        "timestamp": datetime.now(UTC).isoformat(),
        "fields": kept,
    }
    if len(kept) < len(entries):
        embed["footer"] = {"text": f"{len(entries) - len(kept)} more fields left out"}
    return {key: value for key, value in embed.items() if value not in ("", [])}


def _entries(fields: object) -> Iterator[dict[str, Any]]:
    """The fields that can be read; a wrong shape costs itself only."""
    try:
        yield from _read(fields)
    except Exception:  # whatever a foreign mapping or iterator raises
        log.warning("notification_field_unreadable", kind=type(fields).__name__)


def _read(fields: object) -> Iterator[dict[str, Any]]:
    if isinstance(fields, Mapping):
        given = fields
        fields = ({"name": name, "value": given[name], "inline": True} for name in list(given))
    if not isinstance(fields, Iterable) or isinstance(fields, str | bytes):
        if fields is not None:
            log.warning("notification_field_unreadable", kind=type(fields).__name__)
        return
    for field in islice(fields, _MOST_FIELDS):
        if not isinstance(field, Mapping):
            log.warning("notification_field_unreadable", kind=type(field).__name__)
            continue
        yield {
            "name": _clip(field.get("name"), NAME_LIMIT) or BLANK,
            "value": _clip(field.get("value"), VALUE_LIMIT) or BLANK,
            "inline": field.get("inline") is True,
        }


def plain(value: object, limit: int = _LONGEST) -> str:
    """Any value as text without secrets and control characters, cut at ``limit``. Never raises."""
    if value is None:
        return ""
    text = f"<{type(value).__name__} that cannot be shown>"
    # whatever a foreign __str__ raises, RecursionError and MemoryError among it
    with contextlib.suppress(Exception):
        text = str(value)
    looked_at = 2 * (limit + MARGIN)
    shown = _CONTROLS.sub("", text[:looked_at])
    if len(text) > looked_at:
        shown = shown[:-MARGIN]  # a secret that was cut in half at the end would not be recognised
    # lone surrogates have no UTF-8
    return redact(shown.encode("utf-8", "replace").decode(), limit)


def _clip(value: object, limit: int) -> str:
    """``value`` as text without white space around it, at most ``limit`` UTF-16 units long."""
    encoded = plain(value, 2 * limit).strip().encode("utf-16-le", "replace")
    if len(encoded) <= 2 * limit:
        return encoded.decode("utf-16-le")
    # half of a surrogate pair at the cut is dropped
    return encoded[: 2 * (limit - 1)].decode("utf-16-le", "ignore").rstrip() + "…"


def _units(value: str) -> int:
    return len(value.encode("utf-16-le")) // 2


def find_channel(value: AlertChannel | str) -> AlertChannel:
    """The channel by itself, its value or its name; the alerts channel for an unknown one."""
    for channel in AlertChannel:
        if plain(value).lower() in (channel.value, channel.name.lower()):
            return channel
    log.warning("notification_channel_unknown", channel=plain(value))
    return AlertChannel.ALERTS


def find_level(value: AlertLevel | str | int) -> AlertLevel:
    """The level by itself, its name or its colour; INFO for an unknown one."""
    for level in AlertLevel:
        if value in (level, level.value) or plain(value).upper() == level.name:
            return level
    log.warning("notification_level_unknown", value=plain(value))
    return AlertLevel.INFO
