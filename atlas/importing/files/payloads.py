"""What JSON says of videos: answers of the YouTube Data API, what yt-dlp writes, Takeout, plain records.

A record becomes cells by path (``statistics.viewCount``). What is of another kind than a video is skipped
with a reason: an id of eleven characters alone does not make one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_DEPTH, _CELLS = 6, 500
_WATCHED = re.compile(r"^Watched ")
#: Names of lists that hold the records of a document.
_LISTS = ("items", "entries", "videos", "data", "results", "records", "rows", "response")

_ID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclass(frozen=True, slots=True)
class Record:
    """A row: cells by column. With a reason it is none, and ``skipped`` if it is of another kind."""

    cells: Mapping[str, str | None]
    reason: str | None = None
    skipped: bool = False


def records(value: Any) -> Iterator[Record]:
    """The records that a JSON value holds, however deep an envelope lies around them."""
    if isinstance(value, list):
        for one in value:
            yield from records(one)
        return
    if not isinstance(value, dict):
        yield Record({}, "not an object with fields")
        return
    if (inner := _inner(value)) is not None:
        for one in inner:
            yield from records(one)
        return
    if value and all(_ID.fullmatch(key) and isinstance(one, dict) for key, one in value.items()):
        for key, one in value.items():
            yield _record({"video_id": key} | one)
        return
    yield _record(value)


def _inner(value: dict[str, Any]) -> list[Any] | None:
    """The list of records in an envelope; None for a record."""
    kind = value.get("kind")
    if isinstance(kind, str) and kind.endswith(("ListResponse", "SearchListResponse")):
        items = value.get("items")
        return items if isinstance(items, list) else []
    if value.get("_type") in ("playlist", "multi_video") and isinstance(value.get("entries"), list):
        return [one for one in value["entries"] if one is not None]
    if isinstance(kind, str) or "id" in value or "video_id" in value or "videoId" in value:
        return None
    for name in _LISTS:
        inner = value.get(name)
        if isinstance(inner, list) and all(isinstance(one, dict) for one in inner):
            return inner
        if isinstance(inner, dict) and name in ("data", "response") and _inner(inner) is not None:
            return [inner]
    return None


def _record(value: dict[str, Any]) -> Record:
    if isinstance(value.get("error"), dict) and "snippet" not in value:
        return Record(flat(value), "an error answer, not a video", True)
    if value.get("header") in ("YouTube", "YouTube Music") and "time" in value:
        return _takeout(value)
    if any(name in value for name in ("extractor", "extractor_key", "ie_key", "_type")):
        return _yt_dlp(value)
    kind = value.get("kind")
    if isinstance(kind, str) and kind.startswith("youtube#"):
        return _api(kind.removeprefix("youtube#"), value)
    return Record(flat(value))


def _api(kind: str, value: dict[str, Any]) -> Record:
    cells = flat(value)
    if kind == "video":
        return Record(cells)
    if kind == "searchResult":
        return _search_result(cells)
    if kind == "playlistItem":
        return _playlist_item(cells)
    if kind == "activity" and (video := cells.get("contentDetails.upload.videoId")):
        return Record(_of_video(cells, video))
    return Record(cells, f"{_article(kind)}, not a video", True)


def _search_result(cells: dict[str, str | None]) -> Record:
    of = (cells.get("id.kind") or "youtube#other").removeprefix("youtube#")
    video = cells.get("id.videoId")
    if of != "video" or not video:
        return Record(cells, f"{_article(of)}, not a video", True)
    # YouTube escapes the text of search results for HTML
    for name in ("snippet.title", "snippet.channelTitle", "snippet.description"):
        if (text := cells.get(name)) is not None:
            cells[name] = html.unescape(text)
    return Record(_of_video(cells, video))


def _playlist_item(cells: dict[str, str | None]) -> Record:
    of = (cells.get("snippet.resourceId.kind") or "youtube#video").removeprefix("youtube#")
    video = cells.get("contentDetails.videoId") or cells.get("snippet.resourceId.videoId")
    if of != "video" or not video:
        return Record(cells, "a playlist item without a video", True)
    cells = _of_video(cells, video)
    # the snippet's own channel and time are those of the playlist
    cells["snippet.channelId"] = cells.pop("snippet.videoOwnerChannelId", None)
    cells["snippet.channelTitle"] = cells.pop("snippet.videoOwnerChannelTitle", None)
    cells["snippet.publishedAt"] = cells.pop("contentDetails.videoPublishedAt", None)
    if cells.get("snippet.title") in ("Deleted video", "Private video"):
        cells["snippet.title"] = None
    return Record(cells)


def _of_video(cells: dict[str, str | None], video: str) -> dict[str, str | None]:
    """The cells with the id of the video in the place of what the item itself is called."""
    kept = {
        name: cell for name, cell in cells.items() if name != "id" and not name.startswith("id.")
    }
    return {"id": video, **kept}


def _yt_dlp(value: dict[str, Any]) -> Record:
    cells = flat(value)
    site = value.get("extractor_key") or value.get("ie_key") or value.get("extractor") or "youtube"
    if not str(site).lower().startswith("youtube"):
        return Record(cells, "of another site than YouTube", True)
    if value.get("_type") in ("playlist", "multi_video", "channel") or str(site).lower() in (
        "youtubetab",
        "youtubeplaylist",
    ):
        return Record(cells, "a playlist or channel, not a video", True)
    # marks of yt-dlp for the mapping, also where a line lacks them
    cells.setdefault("upload_date", None)
    cells.setdefault("extractor", str(site))
    return Record(cells)


def _takeout(value: dict[str, Any]) -> Record:
    address = value.get("titleUrl")
    if not isinstance(address, str) or "watch" not in address:
        return Record(flat(value), "not a video", True)
    title = _WATCHED.sub("", str(value.get("title") or ""))
    channels = value.get("subtitles")
    channel = channels[0] if isinstance(channels, list) and channels else {}
    cells: dict[str, str | None] = {"video_url": address, "title": title}
    if title == address:
        cells["title"] = None
    if isinstance(channel, dict) and isinstance(channel.get("name"), str):
        cells["channel_title"] = channel["name"]
        found = re.search(r"/channel/(UC[\w-]{22})", str(channel.get("url") or ""))
        cells["channel_id"] = found[1] if found else None
    return Record(cells)


def _article(kind: str) -> str:
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()[:40]
    words = "".join(one if one.isalnum() or one == " " else "?" for one in words)
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def flat(value: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, str | None]:
    """Cells by path; lists as JSON."""
    cells: dict[str, str | None] = {}
    for name, one in value.items():
        if len(cells) >= _CELLS:
            break
        path = f"{prefix}{name}".replace("\0", "")
        if isinstance(one, dict) and depth < _DEPTH:
            cells |= flat(one, f"{path}.", depth + 1)
        else:
            cells[path] = cell(one)
    return cells


def cell(value: Any) -> str | None:
    """A value as the text of a cell."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**40 else "too large"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    return json.dumps(value, ensure_ascii=False, default=str)[:1_000_000]
