"""Pictures of notifications for docs/notifications.md, drawn from the payloads that Discord would get."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any

from atlas.notifications.announcements import announcement, digest, summary
from atlas.notifications.message import build_embed, find_level, payload
from atlas.repositories.notifications import Announced, Digest, Tally
from atlas.types import AlertLevel

#: Pixels of a line, and characters that fit into one.
_LINE, _CHARACTERS, _WIDTH = 18, 76, 640

_TALLY = Tally(
    fingerprint="4f1c09d2ab7e55aa01b2c3d4e5f60718",
    algorithm=1,
    kind="ConnectionError from TimeoutError",
    place="maia.hunter.search",
    message="no answer from the search of 'lofi', key ***",
    level="CRITICAL",
    stack="maia.hunter.run line 88: await self.search(term)\n"
    "maia.hunter.search line 131: page = await fetch(url)\nConnectionError",
    context={"video_id": "dQw4w9WgXcQ", "attempt": "3"},
    count=1,
)


def _embed(title: object, description: object, level: Any, fields: Any = None) -> dict[str, Any]:
    return build_embed(title, description, find_level(level), fields)


def _several() -> list[dict[str, Any]]:
    titles = ["Archive done", "3 channels were added", "Search terms revived"]
    embeds = [_embed(title, "", AlertLevel.INFO) for title in titles]
    return [*embeds, _embed(None, "12 more INFO left out", AlertLevel.WARNING)]


def _messages() -> dict[str, list[dict[str, Any]]]:
    grown = Digest(
        _TALLY.fingerprint, _TALLY.kind, _TALLY.place, _TALLY.message, "CRITICAL", 311, 312,
        datetime(2026, 11, 27, 12, 30, tzinfo=UTC),
    )  # fmt: skip
    first = Announced(_TALLY.fingerprint, "new", 1)
    again = Announced(_TALLY.fingerprint, "regression", 313)
    done = ("Archive done", "12 slices", AlertLevel.SUCCESS, {"rows": 81_000, "files": 12})
    return {
        "message": [_embed(*done)],
        "first": [_embed(**announcement(_TALLY, first))],
        "digest": [_embed(**digest(grown))],
        "regression": [_embed(**announcement(_TALLY, again))],
        "summary": [_embed(**summary([_TALLY] * 3))],
        "packed": _several(),
    }


def picture(name: str) -> str:
    """One message as SVG."""
    parts, y = [], 8
    for embed in payload(_messages()[name])["embeds"]:
        lines = list(_lines(embed))
        height = _LINE * len(lines) + 16
        parts.append(
            f'<rect x="8" y="{y}" width="{_WIDTH - 16}" height="{height}" rx="4" fill="#2b2d31"/>'
        )
        parts.append(
            f'<rect x="8" y="{y}" width="4" height="{height}" fill="#{embed["color"]:06x}"/>'
        )
        for number, (weight, colour, text) in enumerate(lines, 1):
            parts.append(
                f'<text x="24" y="{y + _LINE * number + 2}" fill="{colour}" font-weight="{weight}" '
                f'xml:space="preserve">{escape(text)}</text>'
            )
        y += height + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        'font-family="ui-monospace, monospace" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{y}" fill="#313338"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _lines(embed: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Weight, colour and text of each line."""
    for line in textwrap.wrap(embed.get("title", ""), _CHARACTERS):
        yield "bold", "#ffffff", line
    for paragraph in embed.get("description", "").splitlines():
        for line in textwrap.wrap(paragraph, _CHARACTERS) or [""]:
            yield "normal", "#dbdee1", line
    fields = embed.get("fields", [])
    if fields:
        yield "normal", "#dbdee1", ""
    for field in fields:
        yield "bold", "#dbdee1", f"{field['name']}: {field['value']}"
    if "footer" in embed:
        yield "normal", "#949ba4", embed["footer"]["text"]


#: File, and the message that it shows.
PICTURES = {f"docs/images/notification-{name}.svg": name for name in _messages()}
