"""JSON of all kinds: answers of the API, yt-dlp, Takeout, lines, arrays; and Parquet."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atlas.errors import InvalidInput
from tests.support.importing import DAY, ID, OTHER, Understood, understand

CHANNEL = "UC38IQsAvIsxxjztdMZQtwHA"


def read(folder: Path, *values: Any, **options: Any) -> Understood:
    path = folder / "answer.json"
    path.write_text("\n".join(json.dumps(value) for value in values))
    return understand(path, **({"timestamp": DAY} | options))


def page(kind: str, *items: Any) -> dict[str, Any]:
    return {
        "kind": f"youtube#{kind}ListResponse",
        "etag": "e",
        "items": list(items),
        "pageInfo": {},
    }


VIDEO = {
    "kind": "youtube#video",
    "id": ID,
    "snippet": {
        "publishedAt": "2018-03-05T01:00:00Z",
        "channelId": CHANNEL,
        "title": "Tom &amp; Jerry",
        "channelTitle": "A channel",
        "categoryId": "28",
        "tags": ["a|b", "c"],
        "thumbnails": {"default": {"url": "https://i.ytimg.com/vi/AAAAAAAAAAA/default.jpg"}},
        "localized": {"title": "another"},
    },
    "contentDetails": {"duration": "PT2M3S"},
    "statistics": {
        "viewCount": "500",
        "likeCount": "10",
        "favoriteCount": "0",
        "commentCount": "3",
    },
}


@pytest.mark.parametrize(
    "values",
    [
        [page("video", VIDEO)],
        [VIDEO],
        [[VIDEO]],
        [page("video", VIDEO), page("video")],
        [{"data": [VIDEO]}],
    ],
)
def test_videos_of_the_api_come_in_whatever_is_around_them(
    tmp_path: Path, values: list[Any]
) -> None:
    found = read(tmp_path, *values)
    assert found.samples == {(ID, DAY): (500, 10, 3)}
    video = found.videos[ID]
    assert video["title"] == "Tom &amp; Jerry"  # as it is: only search results are escaped
    assert json.loads(video["tags"]) == ["a|b", "c"]
    assert (video["channel_id"], video["duration"], video["category_id"]) == (CHANNEL, 123, "28")
    assert video["published_at"] == datetime(2018, 3, 5, 1, tzinfo=UTC)


def test_hidden_counters_are_not_known(tmp_path: Path) -> None:
    hidden = VIDEO | {"statistics": {"viewCount": "500"}}
    assert read(tmp_path, page("video", hidden)).sample == (500, None, None)


def test_a_page_of_a_playlist_names_its_videos_not_its_items(tmp_path: Path) -> None:
    item = {
        "kind": "youtube#playlistItem",
        "id": "UExCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaMDEyMzQ1Njc4",
        "snippet": {
            "publishedAt": "2026-01-01T00:00:00Z",
            "channelId": "UC0000000000000000000000",
            "channelTitle": "who made the playlist",
            "title": "A title",
            "videoOwnerChannelId": CHANNEL,
            "videoOwnerChannelTitle": "who made the video",
            "resourceId": {"kind": "youtube#video", "videoId": ID},
        },
        "contentDetails": {"videoId": ID, "videoPublishedAt": "2018-03-05T01:00:00Z"},
    }
    bare = {"kind": "youtube#playlistItem", "id": "x" * 48, "contentDetails": {"videoId": OTHER}}
    gone = {"kind": "youtube#playlistItem", "id": "y" * 48, "snippet": {"title": "Deleted video"}}
    found = read(tmp_path, page("playlistItem", item, bare, gone))
    assert set(found.videos) == {ID, OTHER}
    assert found.videos[ID]["channel_id"] == CHANNEL
    assert found.videos[ID]["published_at"] == datetime(2018, 3, 5, 1, tzinfo=UTC)
    assert found.report.skipped_reasons == {"a playlist item without a video": 1}


def test_results_of_a_search_are_unescaped_and_only_videos_taken(tmp_path: Path) -> None:
    def result(kind: str, **ids: str) -> dict[str, Any]:
        return {
            "kind": "youtube#searchResult",
            "id": {"kind": f"youtube#{kind}", **ids},
            "snippet": {
                "title": "Tom &amp; Jerry &#39;s",
                "channelTitle": "R&amp;B",
                "channelId": CHANNEL,
            },
        }

    found = read(
        tmp_path,
        page(
            "search",
            result("video", videoId=ID),
            result("channel", channelId=CHANNEL),
            result("playlist", playlistId="PL123"),
        ),
    )
    assert set(found.videos) == {ID}
    assert (found.videos[ID]["title"], found.videos[ID]["channel_title"]) == (
        "Tom & Jerry 's",
        "R&B",
    )
    assert found.report.skipped_reasons == {
        "a channel, not a video": 1,
        "a playlist, not a video": 1,
    }
    assert found.report.bad == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("channel", "a channel"),
        ("commentThread", "a comment thread"),
        ("comment", "a comment"),
        ("playlist", "a playlist"),
        ("videoCategory", "a video category"),
        ("subscription", "a subscription"),
        ("caption", "a caption"),
    ],
)
def test_what_is_no_video_makes_none_nor_a_sample(tmp_path: Path, kind: str, words: str) -> None:
    item = {
        "kind": f"youtube#{kind}",
        "id": ID,
        "snippet": {"title": "t", "videoId": OTHER},
        "statistics": {"viewCount": "9"},
    }
    found = read(tmp_path, page(kind, item))
    assert (found.samples, found.videos) == ({}, {})
    assert found.report.skipped_reasons == {f"{words}, not a video": 1}
    table = tmp_path / "flat.csv"
    table.write_text(
        f"kind,id,statistics.viewCount\nyoutube#{kind},{ID},9\nyoutube#video,{OTHER},8\n"
    )
    assert understand(table, timestamp=DAY).samples == {(OTHER, DAY): (8, None, None)}


def test_an_error_answer_is_no_video(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"error": {"code": 403, "errors": [{"reason": "quotaExceeded"}]}},
        page("video", VIDEO),
    )
    assert found.report.skipped_reasons == {"an error answer, not a video": 1}
    assert len(found.samples) == 1


INFO = {
    "id": ID,
    "title": "A title",
    "timestamp": 1520211600,
    "upload_date": "20180305",
    "epoch": 1768435200,
    "channel_id": CHANNEL,
    "channel": "A channel",
    "uploader_id": "@someone",
    "duration": 123,
    "view_count": 500,
    "like_count": 10,
    "comment_count": 3,
    "comments": [{"id": "c", "text": "t"}],
    "tags": ["a", "b"],
    "categories": ["Music"],
    "webpage_url": f"https://www.youtube.com/watch?v={ID}",
    "extractor": "youtube",
    "extractor_key": "Youtube",
    "_type": "video",
}


def test_yt_dlp_looked_at_its_epoch_and_its_timestamp_is_the_publication(tmp_path: Path) -> None:
    entry = {"id": OTHER, "_type": "url", "ie_key": "Youtube", "view_count": 7, "epoch": 1768435200}
    for values in (
        [INFO, entry],
        [{"_type": "playlist", "id": "PL1", "entries": [INFO, entry, None]}],
    ):
        found = read(tmp_path, *values, timestamp=None)
        assert found.samples == {(ID, DAY): (500, 10, 3), (OTHER, DAY): (7, None, None)}
        assert found.videos[ID]["published_at"] == datetime(2018, 3, 5, 1, tzinfo=UTC)
    old = {name: value for name, value in INFO.items() if name not in ("epoch",)}
    with pytest.raises(InvalidInput, match="when were these"):
        read(tmp_path, old, timestamp=None)
    elsewhere = INFO | {
        "extractor": "vimeo",
        "extractor_key": "Vimeo",
        "webpage_url": "https://vimeo.com/1",
    }
    assert read(tmp_path, INFO, elsewhere).report.skipped_reasons == {
        "of another site than YouTube": 1
    }


def test_the_day_of_upload_counts_where_yt_dlp_gives_no_more(tmp_path: Path) -> None:
    info = {name: value for name, value in INFO.items() if name != "timestamp"}
    found = read(tmp_path, info)
    assert found.videos[ID]["published_at"] == datetime(2018, 3, 5, tzinfo=UTC)


def test_a_history_of_takeout_is_videos_without_samples(tmp_path: Path) -> None:
    watched = {
        "header": "YouTube",
        "title": "Watched A title",
        "titleUrl": f"https://www.youtube.com/watch?v\u003d{ID}",
        "subtitles": [{"name": "A channel", "url": f"https://www.youtube.com/channel/{CHANNEL}"}],
        "time": "2026-01-15T10:00:00.000Z",
    }
    found = read(
        tmp_path,
        [watched, {"header": "YouTube", "title": "Viewed a post", "time": "x"}],
        timestamp=None,
    )
    assert found.samples == {}
    assert (found.videos[ID]["title"], found.videos[ID]["channel_id"]) == ("A title", CHANNEL)
    assert found.report.skipped == 1


@pytest.mark.parametrize(
    "shape", ["lines", "array", "indented", "array lines", "one after the other", "crlf", "bom"]
)
def test_json_is_read_in_every_layout(tmp_path: Path, shape: str) -> None:
    rows = [
        {"id": f"{n:011d}", "date": "2026-01-15", "views": n, "title": 'é\n{["'} for n in range(300)
    ]
    path = tmp_path / "export"
    texts = {
        "lines": "\n".join(map(json.dumps, rows)),
        "array": json.dumps(rows),
        "indented": json.dumps(rows, indent=2),
        "array lines": "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
        "one after the other": "".join(json.dumps(row, indent=1) for row in rows),
        "crlf": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "bom": "\ufeff" + json.dumps(rows, ensure_ascii=False),
    }
    path.write_bytes(texts[shape].encode())
    found = understand(path)
    assert {key[0]: counters[0] for key, counters in found.samples.items()} == {
        f"{n:011d}": n for n in range(300)
    }
    assert found.videos[f"{7:011d}"]["title"] == 'é\n{["'


def test_a_broken_line_of_json_costs_itself_and_a_broken_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export"
    good = json.dumps({"id": ID, "date": "2026-01-15", "views": 1})
    last = json.dumps({"id": OTHER, "date": "2026-01-15", "views": 2})
    deep = "[" * 100_000
    path.write_text(
        "\n".join([good, '{"id": "broken', "[1, 2", '{"a":' * 50_000, deep, "17", last])
    )
    found = understand(path)
    assert [counters[0] for counters in found.samples.values()] == [1, 2]
    assert found.report.bad == found.report.rows - 2
    for cut in (f"[{good},", f"[{good}, {last[:-5]}", f"[{good} nonsense, {last}]"):
        path.write_text(cut)
        with pytest.raises(InvalidInput, match="array"):
            understand(path)


def test_odd_values_of_json_cost_their_field(tmp_path: Path) -> None:
    odd = [
        {
            "id": ID,
            "date": "2026-01-15",
            "views": 5,
            "likes": True,
            "comments": [1, 2],
            "title": "\ud800",
        },
        {"id": OTHER, "date": 1768435200, "views": 1e3, "likes": float("nan"), "comments": 10**400},
    ]
    found = read(tmp_path, *odd, timestamp=None)
    assert found.samples == {(ID, DAY): (5, None, None), (OTHER, DAY): (1000, None, None)}


def test_parquet_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "export"
    moment = datetime(2026, 1, 15, 12, 0, 0, 123456, tzinfo=UTC)
    table = pa.table(
        {
            "videoId": pa.array([ID, OTHER, None]).dictionary_encode(),
            "snapshot_date": pa.array([moment, None, moment], pa.timestamp("us", "Europe/Berlin")),
            "statistics": [
                {"viewCount": 2**60 + 1, "likeCount": 1.0},
                {"viewCount": 2, "likeCount": None},
                None,
            ],
            "comment_count": pa.array([Decimal("7"), None, None], pa.decimal128(10, 2)),
            "published": pa.array([date(2018, 3, 5), None, None]),
            "tags": [["a|b", "c"], [], None],
        }
    )
    pq.write_table(table, path)
    found = understand(path)
    assert found.samples == {(ID, moment): (2**60 + 1, 1, 7)}
    assert (found.report.good, found.report.bad) == (1, 2)
    assert json.loads(found.videos[ID]["tags"]) == ["a|b", "c"]


def test_channels_comments_and_playlists_ask_for_no_time_and_name_no_columns(
    tmp_path: Path,
) -> None:
    items = [
        {"kind": "youtube#channel", "id": CHANNEL, "statistics": {"viewCount": "99999"}},
        {"kind": "youtube#commentThread", "id": "Ugw", "snippet": {"videoId": ID, "likeCount": 7}},
        {"kind": "youtube#playlist", "id": "PL123", "snippet": {"title": "A list"}},
    ]
    found = read(tmp_path, {"items": items})
    assert (found.report.good, found.report.bad, found.report.skipped) == (0, 0, 3)
    assert not found.report.mapping and not found.videos
    video = {"kind": "youtube#video", "id": ID, "snippet": {"title": "A title"}}
    found = read(tmp_path, {"items": [*items, video]})
    assert (found.report.good, found.report.skipped) == (1, 3)
