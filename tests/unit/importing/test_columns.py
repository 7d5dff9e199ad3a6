"""Tables as people export them: which column is what, and where the header is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from atlas.errors import InvalidInput
from atlas.importing.columns.values import derived_channel_id
from atlas.importing.videos import _video
from tests.support.importing import DAY, ID, OTHER, understand, written


@pytest.mark.parametrize(
    "header",
    [
        "video_id,timestamp,views,likes,comment_count",
        "videoId,timestamp,viewCount,likeCount,commentCount",
        "Video ID,Date,View Count,Like-Count,COMMENTS",
        "id,trending_date,views,likes,comment_total",
        "id,fetchedAt,statistics.viewCount,statistics.likeCount,statistics.commentCount",
        "id,fetched_at,statistics/viewCount,statistics/likeCount,statistics/commentCount",
        "items.id,scraped-at,items.statistics.viewCount,statistics_likeCount,statisticsCommentCount",
        "\ufeffVIDEO-ID,as of,Views,Likes,Comments",
    ],
)
def test_columns_are_known_however_their_names_are_spelt(tmp_path: Path, header: str) -> None:
    found = understand(written(tmp_path, f"{header}\n{ID},2026-01-15,500,10,3\n"))
    assert found.samples == {(ID, DAY): (500, 10, 3)}
    assert set(found.report.mapping[0]) == {
        "video_id",
        "timestamp",
        "views",
        "likes",
        "comment_count",
    }


def test_what_is_mapped_and_what_is_ignored_is_reported(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"videoId,day,hits,mood\x1b[2J\n{ID},2026-01-15,5,ok\n"),
        columns={"views": "Hits"},
    )
    assert found.report.mapping == [{"video_id": "videoId", "timestamp": "day", "views": "hits"}]
    assert found.report.ignored == ["mood\\x1b[2J"]
    assert found.sample == (5, None, None)


def test_a_table_without_counters_makes_videos_and_no_sample(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"video_id,title,channel_title\n{ID},A,Apple\n{OTHER},B,\n")
    )
    assert found.samples == {}
    assert (found.report.good, found.report.without_counters) == (2, 2)
    assert found.videos[ID]["title"] == "A"
    row = understand(
        written(tmp_path, f"id,date,views,likes\n{ID},2026-01-15,,\n{OTHER},2026-01-15,N/A,4\n")
    )
    assert row.samples == {(OTHER, DAY): (None, 4, None)}
    assert (row.report.good, row.report.without_counters, row.report.bad) == (2, 1, 0)


@pytest.mark.parametrize(
    "address",
    [
        "https://www.youtube.com/watch?v={}",
        "http://youtube.com/watch?app=desktop&v={}&t=1s",
        "https://youtu.be/{}?si=abc",
        "https://www.youtube.com/shorts/{}",
        "https://www.youtube.com/embed/{}?rel=0",
        "https://m.youtube.com/live/{}",
        "https://www.youtube-nocookie.com/embed/{}",
        "www.youtube.com/v/{}",
    ],
)
def test_ids_are_found_in_addresses_of_youtube(tmp_path: Path, address: str) -> None:
    found = understand(written(tmp_path, f"link,date,views\n{address.format(ID)},2026-01-15,1\n"))
    assert found.samples == {(ID, DAY): (1, None, None)}
    for other in (
        "https://vimeo.com/watch?v={}",
        "https://youtu.be/{}x",
        "https://evil.example/youtu.be/{}",
    ):
        path = written(tmp_path, f"link,date,views\n{other.format(ID)},2026-01-15,1\n")
        assert understand(path).report.bad == 1


def test_of_several_columns_the_one_that_holds_ids_is_taken(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"id,url,date,views\n1,https://youtu.be/{ID},2026-01-15,1\n")
    )
    assert found.samples == {(ID, DAY): (1, None, None)}


def test_snapshots_without_a_time_need_one_and_tables_without_ids_a_video(tmp_path: Path) -> None:
    path = written(tmp_path, f"Content,Video title,Views\nTotal,,3\n{ID},A,3\n")
    with pytest.raises(InvalidInput, match="when were these") as asked:
        understand(path)
    assert "--timestamp" in str(asked.value.hint)
    found = understand(path, timestamp=DAY)
    assert found.samples == {(ID, DAY): (3, None, None)}
    one = written(tmp_path, "Date,Views\n2026-01-15,3\n", "history.csv")
    with pytest.raises(InvalidInput, match="no column for video_id"):
        understand(one)
    assert understand(one, video_id=f"https://youtu.be/{ID}").samples == {
        (ID, DAY): (3, None, None)
    }
    with pytest.raises(InvalidInput, match="has ids of its own"):
        understand(path, timestamp=DAY, video_id=ID)


def test_channels_tags_and_durations(tmp_path: Path) -> None:
    header = "id,channel_title,channel_id,tags,duration,publish_time"
    found = understand(
        written(
            tmp_path,
            f'{header}\n{ID},Apple Event,,"a|""b c""|""b c""",PT1H2M3S,2018-03-05T01:00:00+02:00\n'
            f"{OTHER},X,not one,[none],soon,yesterday\n",
        )
    )
    video = found.videos[ID]
    assert video["duration"] == 3723
    assert video["published_at"] == datetime(2018, 3, 4, 23, tzinfo=UTC)
    assert derived_channel_id("Apple Event").startswith("name-")
    assert found.report.partial == 1
    assert len(found.report.lost) == 3


def test_a_mapping_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, f"id,date,views\n{ID},2026-01-15,1\n")
    for columns in ({"colour": "id"}, {"title": "headline"}):
        with pytest.raises(InvalidInput):
            understand(path, columns=columns)


@pytest.mark.parametrize(
    "lines",
    [
        ["sep=;", "id;date;views"],
        ['"sep=;"', "id;date;views"],
        ["Channel report, made for you", "", "id;date;views"],
    ],
)
def test_lines_before_the_header_are_passed_over(tmp_path: Path, lines: list[str]) -> None:
    found = understand(written(tmp_path, "\r\n".join([*lines, f"{ID};2026-01-15;7", ""])))
    assert found.samples == {(ID, DAY): (7, None, None)}


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("Video-ID;Titel;Aufrufe;Mag ich;Kommentare;Datum", "{};Ä;1.234.567;12.345;67;2026-01-15"),
        (
            "ID de la vidéo,Titre,Vues,J'aime,Commentaires,at",
            '{},É,"1 234 567",12 345,67,2026-01-15',
        ),
        (
            "動画ID,タイトル,視聴回数,高評価数,コメント数,日付",
            '{},題,"1,234,567","12,345",67,2026-01-15',
        ),
    ],
)
def test_studio_and_sheets_in_other_languages_are_read(
    tmp_path: Path, header: str, row: str
) -> None:
    found = understand(written(tmp_path, f"{header}\n{row.format(ID)}\n"))
    assert found.samples == {(ID, DAY): (1_234_567, 12_345, 67)}
    assert found.report.lost == {}


def test_a_change_is_no_counter_and_ordinals_are_days(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"id,date,views,likes,upload date\n{ID},2026-01-15,+5,7,Mar 1st 2025\n")
    )
    assert found.samples == {(ID, DAY): (None, 7, None)}
    assert list(found.report.lost.values()) == [1]
    assert found.videos[ID]["published_at"] == datetime(2025, 3, 1, tzinfo=UTC)


def test_objects_by_their_ids_are_records_and_lists_without_names_are_none(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f'{{"{ID}": {{"views": 5, "date": "2026-01-15"}}, "{OTHER}": {{}}}}')
    )
    assert found.samples == {(ID, DAY): (5, None, None)}
    assert set(found.videos) == {ID, OTHER}
    with pytest.raises(InvalidInput, match="no names"):
        understand(written(tmp_path, f'["{ID}", 5]'))


def test_tags_reach_the_video_as_a_tuple_without_quotes(tmp_path: Path) -> None:
    found = understand(
        written(
            tmp_path,
            f'id\ttags\n{ID}\t"""a""|""b, c""|a|""d""""e"""\n{OTHER}\t[none]\n',
        )
    )
    tags = found.videos[ID]["tags"]
    assert _video(ID, None, "|", None, None, None, tags, None, None).tags == ("a", "b, c", 'd"e')
    nothing = found.videos[OTHER]["tags"]
    assert _video(OTHER, None, "|", None, None, None, nothing, None, None).tags is None
