"""The simulated platform: the same for a seed, and as dirty as the real one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from atlas.cli.simulator import TOPICS, Simulator
from atlas.utils import validate_channel_id, validate_youtube_id

START = datetime(2026, 1, 1, tzinfo=UTC)
END = START + timedelta(days=14)


def test_the_same_seed_gives_the_same_platform_and_another_seed_another() -> None:
    one, same, other = (Simulator(seed, 300, START, END) for seed in (1, 1, 2))
    at = START + timedelta(days=5)
    assert one.videos(one.ids, at) == same.videos(same.ids, at)
    assert one.ids != other.ids


def test_views_only_grow_and_a_deleted_video_stays_deleted() -> None:
    simulator = Simulator(3, 200, START, END)
    hours = [START + timedelta(hours=hour) for hour in range(0, 14 * 24, 3)]
    for video_id in simulator.ids:
        seen = [simulator.counters(video_id, hour) for hour in hours]
        shown = [one.views for one in seen if one is not None]
        assert shown == sorted(shown)
        known = [one is not None for one in seen]
        assert "".join("01"[one] for one in known).strip("0").count("0") == 0


def test_some_likes_are_hidden_some_comments_off_and_some_videos_deleted() -> None:
    simulator = Simulator(4, 3_000, START, END)
    counters = [simulator.counters(video_id, END) for video_id in simulator.ids]
    alive = [one for one in counters if one is not None]
    assert 0.005 < 1 - len(alive) / len(counters) < 0.05
    assert 0.03 < sum(one.likes is None for one in alive) / len(alive) < 0.07
    assert 0.015 < sum(one.comment_count is None for one in alive) / len(alive) < 0.05


def test_search_pages_through_every_upload_once_in_the_shape_of_the_api() -> None:
    simulator = Simulator(5, 900, START, END)
    found = []
    for topic in TOPICS:
        token: str | None = None
        while True:
            items, token = simulator.search(topic, START, END + timedelta(seconds=2), token)
            assert len(items) <= 50
            found += items
            if token is None:
                break
    ids = [item["id"]["videoId"] for item in found]
    assert sorted(ids) == sorted(simulator.ids)
    assert all(map(validate_youtube_id, ids))
    assert all(validate_channel_id(item["snippet"]["channelId"]) for item in found)


def test_uploads_follow_the_hours_of_the_day() -> None:
    simulator = Simulator(6, 5_000, START, END)
    hours = [moment.hour for moment in simulator.published]
    assert sum(hour in (16, 17) for hour in hours) > 4 * sum(hour in (3, 4) for hour in hours)
