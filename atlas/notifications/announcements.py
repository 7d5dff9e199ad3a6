"""What the messages about tracked errors say, as arguments of `Notifier.send`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from atlas.repositories.notifications import Announced, Digest, Tally
from atlas.types import AlertLevel

__all__ = ["announcement", "digest", "summary"]

#: Characters of a stack, facts of a context and groups of a summary that a message shows.
_STACK, _FACTS, _GROUPS = 1_500, 10, 20


def announcement(tally: Tally, announced: Announced) -> dict[str, Any]:
    """A group's first message, or the one when it came back after it was resolved."""
    prefix = "Regression: " if announced.reason == "regression" else ""
    return {
        "title": f"{prefix}{tally.kind} in {tally.place}",
        "description": f"{tally.message}\n\n{tally.stack[-_STACK:]}",
        "level": tally.level,
        "fields": {
            "where": tally.place,
            "times": announced.count,
            "group": tally.fingerprint[:12],
            **{str(name): value for name, value in list(tally.context.items())[:_FACTS]},
        },
    }


def summary(groups: Sequence[Tally | Digest], what: str = "new kinds of errors") -> dict[str, Any]:
    """The groups that came too fast to be announced one by one."""
    shown = [f"{one.kind} in {one.place}: {one.message[:80]}" for one in groups[:_GROUPS]]
    return {
        "title": f"{len(groups)} more {what}",
        "description": "\n".join([*shown, "`atlas errors list` shows all"]),
        "level": AlertLevel.CRITICAL,
    }


def digest(grown: Digest) -> dict[str, Any]:
    """A group that has grown since it was announced, or was not: who was to do it died, or could not."""
    prefix = f"{grown.more} more: " if grown.more < grown.count else ""
    return {
        "title": f"{prefix}{grown.kind} in {grown.place}",
        "description": grown.message,
        "level": grown.level,
        "fields": {
            "times": grown.count,
            "since": grown.first_at.isoformat(timespec="minutes"),
            "group": grown.fingerprint[:12],
        },
    }
