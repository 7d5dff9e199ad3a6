"""Where things lie in a vault: keys of documents and tables, and which paths are taken at all."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime
from urllib.parse import quote, unquote

from atlas.errors import InvalidInput
from atlas.types import Dataset, check_id

__all__ = [
    "CARD",
    "as_date",
    "check_document_key",
    "check_folder",
    "check_key",
    "check_prefix",
    "file_uri",
    "flat_transcript_key",
    "metadata_key",
    "metrics_folder",
    "metrics_hour",
    "path_in_uri",
    "transcript_key",
    "visuals_key",
]

#: The Hub shows this file as the dataset's page, and reads from its head which files are tables.
CARD = "README.md"
#: What documents are not written to: folders of tables, the card, Atlas's own bookkeeping.
_RESERVED = frozenset(name.casefold() for name in (*Dataset, CARD, "_atlas"))
#: Bytes of a key and of one name in it (Google Cloud Storage and local file systems).
_KEY_BYTES, _NAME_BYTES = 1024, 255

_HINT = "give a relative path inside the vault, such as notes/2026/a.json"
#: Controls, surrogates, line and paragraph separators.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}


def check_key(path: object, *, field: str = "path") -> str:
    """The normalised key of ``path``: Unicode NFC, no ``.`` segments.

    Raises `InvalidInput` for whatever could lie outside the vault or mean different things on different
    stores: absolute paths, ``..``, drives, backslashes, control characters, empty names and names that
    begin with a dot (those are unfinished files), names over 255 and keys over 1,024 bytes.
    """
    if not isinstance(path, str):
        raise _refused(path, "is not text", field)
    path = unicodedata.normalize("NFC", path)
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise _refused(path, "is absolute", field)
    if "\\" in path or any(unicodedata.category(char) in _FORBIDDEN for char in path):
        raise _refused(path, "has a backslash or a control character", field)
    names = [name for name in path.split("/") if name != "."]
    if not all(names) or not names:
        raise _refused(path, "has an empty name", field)
    if any(name.startswith(".") for name in names):  # .. too
        raise _refused(path, "leads outside or has a name that begins with a dot", field)
    key = "/".join(names)
    if len(key.encode()) > _KEY_BYTES or any(len(name.encode()) > _NAME_BYTES for name in names):
        raise _refused(path, "is too long", field)
    return key


def check_document_key(key: str) -> str:
    """Return a normalised key, unless only Atlas itself writes there: `InvalidInput`.

    Names that some file system takes for a reserved one are reserved as well, whatever the vault: other
    capitals, and dots or blanks at the end.
    """
    first = key.split("/", 1)[0].rstrip(". ").casefold()
    if first in _RESERVED:
        raise InvalidInput(
            f"{key!r:.200} is reserved: only Atlas itself writes to {first}",
            field="path",
            value=key,
            hint="choose another folder; samples are added with append_metrics",
        )
    return key


def check_folder(prefix: object) -> str:
    """The normalised key of a folder, ``""`` for the whole vault; a slash at its end is no matter."""
    if isinstance(prefix, str) and prefix in ("", ".", "./"):
        return ""
    return check_key(prefix[:-1] if isinstance(prefix, str) and prefix.endswith("/") else prefix)


def check_prefix(prefix: object) -> str:
    """The normalised beginning of keys, ``""`` for all of them; a slash at its end is kept."""
    folder = check_folder(prefix)
    return f"{folder}/" if folder and str(prefix).endswith("/") else folder


def metadata_key(video_id: str, day: date) -> str:
    """``metadata/<UTC date>/<id>.json``."""
    return f"metadata/{day.isoformat()}/{check_id(video_id)}.json"


def transcript_key(video_id: str) -> str:
    """``transcripts/<first two>/<id>.json``: folders stay small."""
    return f"transcripts/{check_id(video_id)[:2]}/{video_id}.json"


def flat_transcript_key(video_id: str) -> str:
    """Where transcripts lay before there were folders."""
    return f"transcripts/{check_id(video_id)}.json"


def visuals_key(video_id: str) -> str:
    """``visuals/<first two>/<id>.parquet``."""
    return f"visuals/{check_id(video_id)[:2]}/{video_id}.parquet"


def metrics_folder(day: date, hour: int) -> str:
    """``metrics/date=YYYY-MM-DD/hour=HH``."""
    return f"metrics/date={day.isoformat()}/hour={hour:02}"


def metrics_hour(key: str) -> datetime | None:
    """The hour of the folder that a key of appended metrics lies in; None for another key."""
    match = re.match(r"metrics/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/", key)
    try:
        return match and datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
    except ValueError:
        return None


def as_date(value: date | datetime | str | None, *, now: datetime | None = None) -> date:
    """A UTC date from a date, a datetime (naive: UTC) or ISO 8601 text; None is today's."""
    if value is None:
        return (now or datetime.now(UTC)).astimezone(UTC).date()
    parsed: object = value
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value.strip())
        except ValueError:
            parsed = None
    try:
        # pandas' NaT is a datetime too, one that has no year
        if isinstance(parsed, datetime) and isinstance(parsed.year, int):
            return parsed.astimezone(UTC).date() if parsed.tzinfo else parsed.date()
    except OverflowError:
        pass  # outside of the calendar in UTC
    else:
        if isinstance(parsed, date) and not isinstance(parsed, datetime):
            return parsed
    raise InvalidInput(
        f"date cannot be taken: {value!r:.80}",
        field="date",
        value=value,
        hint="give a date or text such as 2026-01-15",
    )


def file_uri(path: str) -> str:
    """``file:///...`` of an absolute local path."""
    return "file://" + quote(path if path.startswith("/") else f"/{path}")


def path_in_uri(uri: str, base: str) -> str:
    """The path of an address inside the vault whose addresses begin with ``base``."""
    if uri.startswith("file:"):
        # local addresses are percent-encoded; file:/x and file://localhost/x are the same place
        uri = re.sub(r"^file:(//localhost(?=/)|//)?", "file://", unquote(uri))
        base = unquote(base)
    if not uri.startswith(base):
        raise InvalidInput(
            f"{uri!r:.200} is not in this vault",
            field="path",
            value=uri,
            hint=f"addresses here begin with {base}",
        )
    return uri[len(base) :]


def _refused(path: object, why: str, field: str) -> InvalidInput:
    return InvalidInput(f"{path!r:.200} {why}", field=field, value=path, hint=_HINT)
