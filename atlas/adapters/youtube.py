"""Reading items of the YouTube Data API v3, whole or in part, from search or by id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from atlas.errors import InvalidInput
from atlas.parsing import invalid, parse_counter, parse_moment
from atlas.tables.sample import WATCHED
from atlas.types import Channel, Video, check_id

#: Names of the counters in ``statistics``.
STATISTICS = dict(zip(WATCHED, ("viewCount", "likeCount", "commentCount"), strict=True))

#: pydantic would take P1Y for 365 days, and 10:00 for ten minutes or hours.
_DURATION = re.compile(
    r"P(?=[\dT])(?:(?P<weeks>\d{1,9})W)?(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?(?:(?P<seconds>\d{1,9})(?:\.\d+)?S)?)?"
)
_SECONDS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def item_id(item: Mapping[str, Any], *, row: int | None = None) -> str:
    """The video's id: ``id``, or ``id.videoId`` in a search result. Raises `InvalidInput`."""
    if not isinstance(item, Mapping):
        raise invalid(item, "item", row, "give an item of the API: a mapping")
    found = item.get("id")
    return check_id(found.get("videoId") if isinstance(found, Mapping) else found, row=row)


def parse_video(
    item: Mapping[str, Any], *, priority: int = 0, row: int | None = None
) -> tuple[Video, Channel | None]:
    """The video and its channel, as far as the item contains them; raises `InvalidInput`."""
    video_id = item_id(item, row=row)
    snippet, details = _part(item, "snippet"), _part(item, "contentDetails")
    channel = _channel(snippet)
    video = Video(
        id=video_id,
        title=_text(snippet.get("title")) or "",
        channel_id=channel.id if channel else None,
        published_at=parse_moment(snippet.get("publishedAt"), field="publishedAt", row=row),
        duration=parse_duration(details.get("duration"), row=row),
        tags=_texts(snippet.get("tags")),
        category_id=_text(snippet.get("categoryId")),
        default_language=_text(snippet.get("defaultLanguage")),
        wiki_topics=_texts(_part(item, "topicDetails").get("topicCategories")),
        priority=priority,
    )
    return video, channel


def parse_statistics(item: Mapping[str, Any], *, row: int | None = None) -> dict[str, int | None]:
    """The counters by Atlas's names; hidden or missing ones are None. Raises `InvalidInput`."""
    statistics = _part(item, "statistics")
    return {
        name: parse_counter(statistics.get(key), field=f"statistics.{key}", row=row)
        for name, key in STATISTICS.items()
    }


def parse_duration(value: object, *, row: int | None = None) -> int | None:
    """Seconds of an ISO 8601 duration such as ``PT4M13S``; None stays None."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise InvalidInput(
            f"duration cannot be taken: {value!r:.80}",
            row=row,
            field="contentDetails.duration",
            value=value,
            hint="durations look like PT4M13S",
        )
    return sum(int(number) * _SECONDS[unit] for unit, number in match.groupdict("0").items())


def _channel(snippet: Mapping[str, Any]) -> Channel | None:
    try:
        channel_id = check_id(snippet.get("channelId"), field="channelId")
    except InvalidInput:
        return None
    return Channel(channel_id, title=_text(snippet.get("channelTitle")) or "")


def _part(item: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = item.get(name)
    return part if isinstance(part, Mapping) else {}


def _text(value: object) -> str | None:
    """Text as PostgreSQL can hold it: no NUL, no half of a surrogate pair."""
    if value is None:
        return None
    return str(value).replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    return tuple(text for text in map(_text, value) if text is not None)
