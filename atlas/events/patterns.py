"""Patterns of event types, and conditions on payloads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from atlas.errors import InvalidInput

__all__ = ["MAX_PATTERN", "check_condition", "check_pattern", "contains", "to_regex"]

MAX_PATTERN = 256
#: Names, ``*``, ``?``, and sets of characters such as ``[a-z]`` and ``[!x]``.
_PATTERN = re.compile(r"(?:[A-Za-z0-9_.*?]|\[!?[A-Za-z0-9_.]+(?:-[A-Za-z0-9_.]+)*\])+")
_TOKEN = re.compile(r"\[(!?)([^\]]*)\]|(.)", re.DOTALL)


def check_pattern(pattern: object, field: str = "pattern") -> str:
    """Return a glob over event types. Raises `InvalidInput`."""
    if not isinstance(pattern, str) or not pattern:
        raise InvalidInput(f"{field} must be a text that is not empty", field=field)
    if len(pattern) > MAX_PATTERN:
        raise InvalidInput(
            f"{field} has {len(pattern)} characters; {MAX_PATTERN} are taken", field=field
        )
    try:
        if _PATTERN.fullmatch(pattern):
            re.compile(to_regex([pattern]))
            return pattern
    except re.error:
        pass
    raise InvalidInput(
        f"{field} is not a pattern of event types",
        field=field,
        value=pattern,
        hint="write letters, digits, _ and ., with *, ? or [a-z] for the rest: video.*",
    )


def to_regex(patterns: Iterable[str]) -> str:
    """A regular expression, for PostgreSQL and Python alike, that matches what any of the globs matches."""
    return f"^(?:{'|'.join(map(_translate, patterns))})$"


def _translate(pattern: str) -> str:
    parts = []
    for match in _TOKEN.finditer(pattern):
        negated, characters, single = match.groups()
        if single is None:
            parts.append(f"[{'^' if negated else ''}{characters}]" if characters else "[[]]")
        elif single == "*":
            parts.append(".*")
        elif single == "?":
            parts.append(".")
        else:
            parts.append(single if single.isalnum() or single == "_" else f"\\{single}")
    return "".join(parts)


def check_condition(condition: object, field: str = "condition") -> Mapping[str, Any] | None:
    """Return a condition: an object that a payload must contain, as PostgreSQL's ``@>``. Raises
    `InvalidInput`.
    """
    if condition is None:
        return None
    from atlas.events.event import json_types

    if not isinstance(condition, Mapping):
        raise InvalidInput(
            f"{field} must be a JSON object", field=field, hint='such as {"tier": "HOURLY"}'
        )
    return json_types(condition, field)[0]


def contains(value: Any, condition: Any) -> bool:
    """Whether ``value`` contains ``condition``, as PostgreSQL's ``value @> condition`` does."""
    if isinstance(condition, Mapping):
        return isinstance(value, Mapping) and all(
            name in value and contains(value[name], wanted) for name, wanted in condition.items()
        )
    if isinstance(condition, list):
        return isinstance(value, list) and all(
            any(contains(item, wanted) for item in value) for wanted in condition
        )
    if isinstance(value, bool) or isinstance(condition, bool):
        return value is condition
    return bool(value == condition)
