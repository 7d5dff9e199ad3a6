"""A simulated platform of videos: for one seed and one moment of its clock always the same.

Uploads follow the hours of the day; views grow as a saturating curve towards a log-normal total; some
videos hide their likes, have comments off, or are deleted and then missing from answers, as on YouTube.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from atlas.types import utc

_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
#: Uploads by hour of the day, UTC: few at night, most in the late afternoon.
_HOURS = np.array(
    [3, 2, 2, 1, 1, 2, 3, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13, 13, 12, 10, 8, 7, 5, 4], float
)
_PAGE = 50

TOPICS = ("music", "science", "cooking", "games", "news", "travel")


@dataclass(frozen=True, slots=True)
class Counters:
    """What the platform shows of a video; None where it is hidden."""

    views: int
    likes: int | None
    comment_count: int | None


class Simulator:
    """``videos`` uploads between ``start`` and ``end``; answers as the YouTube Data API words them."""

    def __init__(self, seed: int, videos: int, start: datetime, end: datetime) -> None:
        self.start, self.end = utc(start, field="start"), utc(end, field="end")
        random = np.random.default_rng(seed)
        days = max(1, round((self.end - self.start) / timedelta(days=1)))
        hours = np.tile(_HOURS, days) / (_HOURS.sum() * days)
        uploaded = random.choice(len(hours), size=videos, p=hours) + random.random(videos)
        uploaded = np.sort(uploaded) * ((self.end - self.start) / timedelta(hours=1) / len(hours))
        whole = self.start.replace(microsecond=0)  # the API reports whole seconds
        self.published = [whole + timedelta(seconds=int(one * 3600) + 1) for one in uploaded]
        self.ids = ["".join(row) for row in random.choice(_ALPHABET, size=(videos, 11))]
        self._place = {video_id: place for place, video_id in enumerate(self.ids)}
        self._topic = random.integers(0, len(TOPICS), videos)
        self._channel = random.zipf(1.6, videos) % max(1, videos // 8)
        self._total = random.lognormal(9.0, 2.0, videos)
        self._days_to_grow = random.lognormal(0.8, 0.7, videos)
        self._like_rate = random.beta(2, 50, videos)
        self._comment_rate = random.beta(1.5, 300, videos)
        self._likes_hidden = random.random(videos) < 0.05
        self._comments_off = random.random(videos) < 0.03
        lives = np.where(random.random(videos) < 0.03, random.exponential(4, videos), np.inf)
        self._life_days = lives

    def published_at(self, video_id: str) -> datetime:
        """When the video was uploaded."""
        return self.published[self._place[video_id]]

    def counters(self, video_id: str, at: datetime) -> Counters | None:
        """The counters at that time; None before the upload and after the deletion."""
        place = self._place[video_id]
        days = (at - self.published[place]) / timedelta(days=1)
        if not 0 <= days < self._life_days[place]:
            return None
        grown = 1 - np.exp(-((days / self._days_to_grow[place]) ** 0.8))
        views = int(self._total[place] * grown)
        return Counters(
            views,
            None if self._likes_hidden[place] else int(views * self._like_rate[place]),
            None if self._comments_off[place] else int(views * self._comment_rate[place]),
        )

    def search(
        self, topic: str, since: datetime, until: datetime, page_token: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of uploads of a topic in [since, until), oldest first, and the next page's token."""
        wanted = TOPICS.index(topic)
        found = [
            place
            for place, moment in enumerate(self.published)
            if since <= moment < until and self._topic[place] == wanted
        ]
        begin = int(page_token or 0)
        page = found[begin : begin + _PAGE]
        more = str(begin + _PAGE) if begin + _PAGE < len(found) else None
        return [self._search_item(place) for place in page], more

    def videos(self, video_ids: Sequence[str], at: datetime) -> list[dict[str, Any]]:
        """``videos.list`` at that time: counters are text, hidden ones absent, deleted videos missing."""
        items = []
        for video_id in video_ids:
            counters = self.counters(video_id, at)
            if counters is not None:
                shown = {
                    "viewCount": counters.views,
                    "likeCount": counters.likes,
                    "commentCount": counters.comment_count,
                }
                statistics = {
                    name: str(value) for name, value in shown.items() if value is not None
                }
                items.append({"id": video_id, "statistics": statistics})
        return items

    def _search_item(self, place: int) -> dict[str, Any]:
        channel = int(self._channel[place])
        return {
            "id": {"kind": "youtube#video", "videoId": self.ids[place]},
            "snippet": {
                "publishedAt": self.published[place].strftime("%Y-%m-%dT%H:%M:%SZ"),
                "channelId": f"UC{channel:022d}",
                "channelTitle": f"Channel {channel}",
                "title": f"{TOPICS[int(self._topic[place])].capitalize()} number {place}",
                "tags": [TOPICS[int(self._topic[place])]],
            },
        }
