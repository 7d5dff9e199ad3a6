"""What a cell says: ids, counters, tags, durations. Each reader raises ValueError with the reason."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from decimal import Decimal, InvalidOperation
from urllib.parse import unquote

from atlas.importing.files.text import is_broken
from atlas.parsing import MAX_COUNTER

NO_ID = "not a YouTube video id (11 of A-Z a-z 0-9 _ -)"
NO_COUNTER = "not a counter (a whole number, 0 or more)"
NO_TEXT = "bytes that are no text in the encoding of the file"

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")
_HOST = re.compile(
    r"(?:https?:)?(?://)?(?:[\w-]+\.)*(youtube(?:-nocookie)?\.com|youtu\.be|ytimg\.com)/", re.I
)
_IN_URL = re.compile(
    r"(?:[?&#]v=|youtu\.be/|/(?:shorts|embed|live|v|vi|e|watch)/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])"
)
#: What stands for "not known".
UNKNOWN = frozenset(
    [
        "n/a",
        "na",
        "#n/a",
        "nan",
        "<na>",
        "null",
        "none",
        "nil",
        "\\n",
        "-",
        "--",
        "—",
        "–",
        "undefined",
        "unknown",
        "disabled",
        "hidden",
        "?",
        "nat",
        "#null!",
    ]
)
_GROUPED = re.compile(r"\d{1,3}(?:([,\u00a0\u202f\u2009 '’])\d{3})(?:\1\d{3})*(?:\.0+)?")
_BY_DOTS = re.compile(r"\d{1,3}(?:\.\d{3}){2,}")
#: A sign before a number makes it a change, which is no counter.
_NUMBER = re.compile(r"\d{1,40}(?:\.\d{1,40})?(?:[eE][+]?\d{1,3})?")
_ISO_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?)?")
_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d\d)")
_TRUE = frozenset(("true", "1", "yes", "t", "y", "wahr", "1.0"))


def video_id(value: str) -> str:
    """The id that a cell holds, plain or inside an address of YouTube."""
    if _VIDEO_ID.fullmatch(value):
        return value
    text = value.strip("'\"<> \t")
    if _VIDEO_ID.fullmatch(text):
        return text
    if text.startswith("yt:video:") and _VIDEO_ID.fullmatch(text[9:]):
        return text[9:]
    host = _HOST.match(text)
    if host and (match := _IN_URL.search(text) or _IN_URL.search(unquote(text))):
        return match[1]
    raise ValueError(NO_ID)


def channel_id(value: str) -> str:
    """A channel's id, plain or inside an address of YouTube."""
    if _CHANNEL_ID.fullmatch(value):
        return value
    host = _HOST.match(value)
    if host and (match := re.search(r"/channel/(UC[A-Za-z0-9_-]{22})(?![\w-])", value)):
        return match[1]
    raise ValueError("not a YouTube channel id (UC and 22 more)")


def derived_channel_id(title: str) -> str:
    """A stable id for a channel known by its title only; never the shape of a real one."""
    return f"name-{hashlib.sha256(title.encode()).hexdigest()[:20]}"


def unknown(value: str) -> bool:
    """Whether a cell says that something is not known."""
    return value.casefold() in UNKNOWN


def counter(value: str, *, dotted: bool = False) -> int | None:
    """A counter: digits, thousands set apart, ``123.0``, ``1.2E+06``; None where it is not known.

    With ``dotted`` thousands are set apart by dots: ``1.234`` is 1234.
    """
    if value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    text = value.strip("\"' ")
    if text.startswith('="'):
        text = text[2:].rstrip('"')
    if unknown(text):
        return None
    if (dotted and re.fullmatch(r"\d{1,3}(?:\.\d{3})+", text)) or _BY_DOTS.fullmatch(text):
        text = text.replace(".", "")
    elif match := _GROUPED.fullmatch(text):
        text = text.replace(match[1], "")
    if not text.isascii() or not _NUMBER.fullmatch(text):
        raise ValueError(NO_COUNTER)
    try:
        number = Decimal(text)
        whole = int(number) if number.adjusted() < 20 else -1
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise ValueError(NO_COUNTER) from error
    if whole != number or not 0 <= whole <= MAX_COUNTER:
        raise ValueError(NO_COUNTER)
    return whole


def has_dotted_thousands(value: str) -> bool:
    """Whether a value proves that its column sets thousands apart by dots."""
    return _BY_DOTS.fullmatch(value) is not None


def flag(value: str) -> bool:
    """Whether a cell says yes."""
    return value.strip("\"' ").casefold() in _TRUE


def text(value: str) -> str:
    """The cell as text."""
    if is_broken(value):
        raise ValueError(NO_TEXT)
    return value


def tags(value: str, separator: str) -> tuple[str, ...]:
    """Tags from a list in JSON or Python, or set apart by the column's separator; quotes around them go."""
    if is_broken(value):
        raise ValueError(NO_TEXT)
    if value.strip("\"' ").casefold() in ("[none]", "[]", "none", "nan", "null", "n/a"):
        return ()
    found = _listed(value) if value.startswith("[") else None
    if found is None:
        found = value.split(separator)
    cleaned = (
        one.strip().removeprefix('"').removesuffix('"').replace('""', '"').strip() for one in found
    )
    return tuple(dict.fromkeys(one for one in cleaned if one and one.casefold() != "[none]"))


def _listed(value: str) -> list[str] | None:
    for load in (json.loads, ast.literal_eval):
        try:
            found = load(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and all(isinstance(one, str | int | float) for one in found):
            return [str(one) for one in found]
    return None


def duration(value: str) -> int | None:
    """Seconds, from seconds, ``PT1H2M3S`` or ``1:02:03``."""
    if unknown(value):
        return None
    if match := _CLOCK.fullmatch(value):
        hours, minutes, seconds = (int(one or 0) for one in match.groups())
        return hours * 3600 + minutes * 60 + seconds
    if len(value) > 1 and value != "PT" and (match := _ISO_DURATION.fullmatch(value)):
        days, hours, minutes, seconds = (int(one or 0) for one in match.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + seconds
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", value):
        return int(float(value))
    raise ValueError("not a duration (seconds, PT1H2M3S or 1:02:03)")
