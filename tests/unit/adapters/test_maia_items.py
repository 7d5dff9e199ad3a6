"""Reading what collectors deliver."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.adapters.youtube import parse_duration, parse_statistics, parse_video
from atlas.errors import InvalidInput
from atlas.ingest import parse_sample
from atlas.parsing import parse_counter, parse_moment
from atlas.types import Channel, Sample, Video

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (None, None),
        (0, 0),
        ("0012", 12),
        (" 7 ", 7),
        (3.0, 3),
        (2**63 - 1, 2**63 - 1),
        (str(2**63 - 1), 2**63 - 1),
        (np.int64(5), 5),
        (np.float32(5), 5),
    ],
)
def test_counters_are_taken_in_every_form_they_come_in(given: object, taken: int | None) -> None:
    assert parse_counter(given, field="views") == taken


@pytest.mark.parametrize(
    "given",
    [
        -1,
        "-1",
        "+1",
        "1,000",
        "1e3",
        "12.0",
        "",
        " ",
        "many",
        "\u0663",
        "9" * 5000,
        1.5,
        float("nan"),
        float("inf"),
        True,
        np.bool_(True),
        pd.NA,
        b"1",
        [1],
        2**63,
        str(2**63),
        1e300,
    ],
)
def test_what_is_no_counter_is_refused_by_name(given: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_counter(given, field="likes", row=3)
    assert (caught.value.field, caught.value.row) == ("likes", 3)
    assert "likes in row 3" in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "2026-01-15T12:00:00Z",
        "2026-01-15T14:00:00+02:00",
        "2026-01-15 12:00:00",
        datetime(2026, 1, 15, 12),
        NOW.astimezone(timezone(timedelta(hours=-5))),
        pd.Timestamp("2026-01-15T12:00:00"),
    ],
)
def test_times_are_taken_as_utc_where_they_do_not_say(given: object) -> None:
    assert parse_moment(given, field="timestamp") == NOW


@pytest.mark.parametrize("given", ["soon", "", 1768478400, pd.NaT, datetime])
def test_what_is_no_time_is_refused_by_name(given: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_moment(given, field="timestamp", row=2)
    assert (caught.value.field, caught.value.row) == ("timestamp", 2)


def test_a_sample_without_a_timestamp_is_of_now() -> None:
    assert parse_sample({"video_id": "v", "views": "5"}, 0, NOW) == Sample("v", NOW, 5)


@pytest.mark.parametrize("row", [None, "v", ["v"]])
def test_a_row_that_is_no_mapping_is_refused_by_number(row: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_sample(row, 4, NOW)
    assert caught.value.row == 4


ITEM: dict[str, Any] = {
    "id": "dQw4w9WgXcQ",
    "snippet": {
        "title": "A title",
        "channelId": "UC0123456789012345678901",
        "channelTitle": "A channel",
        "publishedAt": "2026-01-15T12:00:00Z",
        "tags": ["one", "two"],
        "categoryId": "10",
        "defaultLanguage": "en",
    },
    "contentDetails": {"duration": "PT3M33S"},
    "statistics": {"viewCount": "12", "commentCount": "0"},
    "topicDetails": {"topicCategories": ["https://en.wikipedia.org/wiki/Music"]},
}


def test_every_fact_of_an_item_is_read() -> None:
    assert parse_video(ITEM, priority=5) == (
        Video(
            id="dQw4w9WgXcQ",
            title="A title",
            channel_id="UC0123456789012345678901",
            published_at=NOW,
            duration=213,
            tags=("one", "two"),
            category_id="10",
            default_language="en",
            wiki_topics=("https://en.wikipedia.org/wiki/Music",),
            priority=5,
        ),
        Channel("UC0123456789012345678901", "A channel"),
    )
    assert parse_statistics(ITEM) == {"views": 12, "likes": None, "comment_count": 0}


def test_the_search_form_of_an_id_is_read() -> None:
    video, _ = parse_video({"id": {"kind": "youtube#video", "videoId": "abc"}})
    assert video.id == "abc"


def test_a_bare_item_says_nothing_it_does_not_know() -> None:
    assert parse_video({"id": "abc", "snippet": None}) == (Video(id="abc", title=""), None)
    assert set(parse_statistics({"id": "abc"}).values()) == {None}


def test_text_that_postgresql_cannot_hold_is_cleaned_not_lost() -> None:
    video, _ = parse_video({"id": "abc", "snippet": {"title": "a\x00b\ud800c", "tags": ["\x00"]}})
    assert (video.title, video.tags) == ("ab?c", ("",))


def test_an_unusable_channel_id_does_not_lose_the_video() -> None:
    video, channel = parse_video({"id": "abc", "snippet": {"channelId": "not an id", "title": "t"}})
    assert (video.channel_id, channel, video.title) == (None, None, "t")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT0S", 0),
        ("P0D", 0),
        ("PT4M13S", 253),
        ("PT1H", 3600),
        ("P1DT2H3M4S", 93784),
        ("P2W", 1209600),
        ("PT1.9S", 1),
        (None, None),
    ],
)
def test_durations_are_read_to_the_second(text: str | None, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "4:13", "PT", "P1Y", "-PT1S", 253])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_duration(text, row=1)
    assert caught.value.row == 1


@pytest.mark.parametrize(
    ("published_at", "tier", "expected", "wait"),
    [
        (timedelta(hours=1), None, "HOURLY", timedelta(hours=1)),
        (timedelta(days=2), "HOURLY", "DAILY", timedelta(days=1)),
        (timedelta(days=30), None, "WEEKLY", timedelta(days=7)),
        (timedelta(hours=1), "dormant", "DORMANT", timedelta(days=30)),
    ],
)
def test_the_next_time_is_reckoned_from_now_and_naive_times_are_utc(
    published_at: timedelta, tier: str | None, expected: str, wait: timedelta
) -> None:
    before = datetime.now(UTC)
    naive = (before - published_at).replace(tzinfo=None)
    got, moment = MaiaDAO().calculate_next_track_time(naive, tier)
    assert got == expected
    assert type(got) is str
    assert before + wait <= moment <= datetime.now(UTC) + wait


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(InvalidInput, match="HOURLY, DAILY, WEEKLY, DORMANT"):
        MaiaDAO().calculate_next_track_time(NOW, "YEARLY")
