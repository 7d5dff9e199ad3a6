"""Tables in text, as people export them: what is read of each, and what is said of the rest."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import InvalidInput
from atlas.importing.columns.values import derived_channel_id
from tests.support.importing import ID, OTHER, understand

DAY = datetime(2026, 1, 15, tzinfo=UTC)


def written(folder: Path, content: str | bytes, name: str = "export.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


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
    ("cell", "count"),
    [
        ("123.0", 123),
        ("1,234", 1234),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("1 234", 1234),
        ("1\u00a0234\u00a0567", 1234567),
        ("1'234", 1234),
        ("1.2E+06", 1200000),
        ("9007199254740993", 9007199254740993),
        ("'42", 42),
        ("N/A", None),
        ("\\N", None),
        ("nan", None),
        ("", None),
    ],
)
def test_counters_as_spreadsheets_write_them(tmp_path: Path, cell: str, count: int | None) -> None:
    found = understand(written(tmp_path, f"id;date;views;likes\n{ID};2026-01-15;{cell};1\n"))
    assert found.sample == (count, 1, None)


@pytest.mark.parametrize(
    "cell", ["-1", "many", "1.2M", "1.5", "1.234", "1e400", "9223372036854775808", "1,23"]
)
def test_a_counter_that_cannot_be_read_costs_itself_and_no_other(tmp_path: Path, cell: str) -> None:
    found = understand(written(tmp_path, f"id;date;views;likes\n{ID};2026-01-15;7;{cell}\n"))
    assert found.sample == (7, None, None)
    assert (found.report.good, found.report.partial, found.report.bad) == (1, 1, 0)
    assert found.report.lost == {"likes: not a counter (a whole number, 0 or more)": 1}
    alone = understand(written(tmp_path, f"id;date;views\n{ID};2026-01-15;{cell}\n"))
    assert (alone.report.good, alone.report.bad) == (0, 1)


def test_thousands_set_apart_by_dots_are_proved_by_their_column(tmp_path: Path) -> None:
    found = understand(
        written(tmp_path, f"id;date;views\n{ID};2026-01-15;1.234\n{OTHER};2026-01-15;1.234.567\n")
    )
    assert found.samples[ID, DAY] == (1234, None, None)


def test_a_zero_of_what_is_disabled_is_not_known(tmp_path: Path) -> None:
    header = "video_id,date,views,likes,comment_count,comments_disabled,ratings_disabled"
    rows = [f"{ID},2026-01-15,9,0,0,True,True", f"{OTHER},2026-01-15,9,0,4,False,FALSE"]
    found = understand(written(tmp_path, "\n".join([header, *rows])))
    assert found.samples == {(ID, DAY): (9, None, None), (OTHER, DAY): (9, 0, 4)}


def test_each_bad_row_has_its_line_field_value_and_reason_and_costs_no_other(
    tmp_path: Path,
) -> None:
    lines = [
        b"video_id,title,channel_title,views,likes,comment_total,date",
        b"#NAME?,t,c,1,1,1,2026-01-15",
        b'"jt2OHQh0HoQ","two\nlines",c,1,1,1,2026-01-15',
        b"jt2OHQh0HoQ,t,c,-1,,,2026-01-15",
        b"jt2OHQh0HoQ,t,c,1,1,1,24.09l7yxJDFvTRM",
        b"jt2OHQh0HoQ,t,c,1,1",
        b"",
        b"jt2OHQh0HoQ,t,c,1,1,1,2031-01-15",
        b"jt2OHQh0HoQ,t,c,1,1,1,,,",
        b"video_id,title,channel_title,views,likes,comment_total,date",
    ]
    found = understand(written(tmp_path, b"\n".join(lines)))
    assert found.samples == {(ID, DAY): (1, 1, 1)}
    assert found.videos[ID]["title"] == "two\nlines"
    report = found.report
    assert (report.rows, report.good, report.bad, report.skipped) == (8, 1, 6, 1)
    assert report.skipped_reasons == {"the header once more": 1}
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["field"], row["value"]) for row in rows] == [
        ("2", "video_id", "#NAME?"),
        ("5", "views", "'-1"),
        ("6", "date", "24.09l7yxJDFvTRM"),
        ("7", "row", "jt2OHQh0HoQ"),
        ("9", "date", "2031-01-15"),
        ("10", "date", ""),
    ]
    assert rows[0]["channel_title"] == "c"


def test_mended_rows_of_a_report_can_be_imported_as_they_are(tmp_path: Path) -> None:
    bad = "=cmd|' /C calc'!A0"
    path = written(
        tmp_path, f'id,title,tags,date,views\n-t2OHQh0HoQ,{bad},"\'-x",2026-01-15,none so far\n'
    )
    found = understand(path)
    assert found.report.bad == 1
    report = (tmp_path / "report.csv").read_text()
    row = next(csv.reader(report.splitlines()[1:]))
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row)
    (tmp_path / "mended.csv").write_text(report.replace("none so far", "12"))
    mended = understand(tmp_path / "mended.csv", report=tmp_path / "again.csv")
    assert mended.samples == {("-t2OHQh0HoQ", DAY): (12, None, None)}
    assert mended.videos["-t2OHQh0HoQ"]["title"] == bad
    assert mended.videos["-t2OHQh0HoQ"]["tags"] == "'-x"
    assert not (tmp_path / "again.csv").exists()


def test_a_stray_quote_costs_no_other_line(tmp_path: Path) -> None:
    rows = [f"{n:011d},title {n},2026-01-15,{n}" for n in range(5000)]
    rows[7] = f'{7:011d},"an open quote,2026-01-15,7'
    rows[100] = f'{100:011d},"Weird" and open,2026-01-15,100'
    rows[3000] = f'{3000:011d},"closed, and two",2026-01-15,3000'
    rows[4000] = f'{4000:011d},5" disk,2026-01-15,4000'
    rows[4500] = f'{4500:011d},"open, with a comma,2026-01-15,4500'
    found = understand(written(tmp_path, "\n".join(["id,title,date,views", *rows])))
    assert (found.report.rows, found.report.bad, len(found.samples)) == (5000, 1, 4999)
    assert found.videos[f"{7:011d}"]["title"] == '"an open quote'
    assert found.videos[f"{100:011d}"]["title"] == '"Weird" and open'
    assert found.videos[f"{3000:011d}"]["title"] == "closed, and two"
    assert found.report.reasons == {"a quote that is not closed or not doubled": 1}


def test_a_long_cell_is_no_reason_to_stop_and_a_longer_line_costs_itself(tmp_path: Path) -> None:
    cell, longer = "x" * 200_000, "y" * (3 << 20)
    lines = ["id,title,date,views", f"{ID},{cell},2026-01-15,1", f"{OTHER},{longer},2026-01-15,1"]
    found = understand(written(tmp_path, "\n".join([*lines, f'{OTHER},"z",2026-01-15,2'])))
    assert found.samples == {(ID, DAY): (1, None, None), (OTHER, DAY): (2, None, None)}
    assert (found.report.rows, found.report.bad) == (3, 1)
    assert csv.field_size_limit() == 131_072


def test_broken_bytes_cost_the_field_they_stand_in(tmp_path: Path) -> None:
    lines = [
        b"id,title,mood,date,views",
        f"{ID},Žluťoučký kůň úpěl ďábelské ódy,\N{GRINNING FACE},2026-01-15,1".encode(),
        f"{OTHER},fine,".encode() + b"\xff\xfe,2026-01-15,2",
        b"AAAAAAAAAAA,\xff\xfe,ok,2026-01-15,3",
        b"AAAAAAAAAAB,nul\0,ok,2026-01-15,4",
    ]
    found = understand(written(tmp_path, b"\n".join(lines)))
    assert sorted(row[0] for row in found.samples.values()) == [1, 2, 3, 4]
    assert (found.report.partial, found.report.bad) == (2, 0)
    assert found.videos[OTHER]["title"] == "fine"
    assert "title" not in found.videos["AAAAAAAAAAA"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "~", ":"])
def test_encoding_and_delimiter_are_told_by_content(
    tmp_path: Path, encoding: str, delimiter: str
) -> None:
    lines = [("id", "title", "date", "views"), (ID, "Grüße, 東京", "2026-01-15", "1,234")]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(lines)
    found = understand(written(tmp_path, text.getvalue().encode(encoding)))
    assert found.samples == {(ID, DAY): (1234, None, None)}
    assert found.videos[ID]["title"] == "Grüße, 東京"


TEXTS = {
    "cp1252": [
        "Die schönsten Straßen für Fußgänger – größer",
        "Élève à l’école où ça ?",
        "¿Cómo está el niño?",
    ],
    "cp932": [
        "【衝撃】日本の美しい風景をご覧ください",
        "東京で食べるラーメンの作り方",
        "猫がかわいすぎる動画まとめ",
    ],
    "euc_jp": [
        "【衝撃】日本の美しい風景をご覧ください",
        "東京で食べるラーメンの作り方",
        "猫がかわいすぎる動画まとめ",
    ],
    "cp949": [
        "서울에서 가장 맛있는 음식점 소개",
        "한국어로 배우는 요리 방법 영상",
        "오늘의 뉴스 하이라이트 모음",
    ],
    "cp1251": [
        "Лучшие моменты матча за неделю",
        "Как приготовить борщ дома быстро",
        "Новости сегодня: главное за день",
    ],
    "gb18030": [
        "今天的新闻头条和精彩视频合集",
        "如何在家里做出美味的中国菜",
        "北京的春天真是非常美丽",
    ],
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_the_encodings_of_exports_are_told_by_their_text(tmp_path: Path, encoding: str) -> None:
    titles = TEXTS[encoding]
    rows = [f"{n:011d},{title},2026-01-15,{n}" for n, title in enumerate(titles)]
    ascii_first = [f"A{n:010d},plain title number {n},2026-01-15,{n}" for n in range(6_500)]
    content = "\n".join(["id,title,date,views", *ascii_first, *rows]).encode(encoding)
    found = understand(written(tmp_path, content))
    assert found.report.partial == 0
    assert [found.videos[f"{n:011d}"]["title"] for n in range(3)] == titles
    told = understand(written(tmp_path, content), encoding=encoding)
    assert told.videos == found.videos


def packed(how: str, content: bytes) -> bytes:
    if how == "zip":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("folder/", "")
            file.writestr("__MACOSX/._export.csv", "rubbish")
            file.writestr("folder/export.csv", content)
        return archive.getvalue()
    half = len(content) // 2
    ways = {
        "gzip": gzip.compress,
        "bz2": bz2.compress,
        "xz": lzma.compress,
        "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    return ways[how](content[:half]) + ways[how](content[half:])


@pytest.mark.parametrize("how", ["gzip", "bz2", "xz", "zstd", "zip"])
def test_compression_is_told_by_content_and_peeled_off(tmp_path: Path, how: str) -> None:
    content = f"id,date,views\n{ID},2026-01-15,1\n{OTHER},2026-01-15,2\n".encode()
    found = understand(written(tmp_path, packed(how, content), "export"))
    assert len(found.samples) == 2
    twice = understand(written(tmp_path, gzip.compress(packed(how, content)), "twice.dat"))
    assert twice.samples == found.samples


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.xlsx", b"PK", "a spreadsheet"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a spreadsheet"),
        ("a.pdf", b"%PDF-1.7", "a PDF document"),
        ("a.html", b"\n<!DOCTYPE html><html>\x1b[2J", "a web page"),
        ("a.db", b"SQLite format 3\0", "an SQLite database"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "an image"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.bin", bytes(range(256)) * 20, "no text"),
        ("a.zeros", bytes(100_000), "no text"),
        ("a.empty", b"", "is empty"),
        ("a.blank", b"\n\n   \n", "no text"),
        ("a.gz", b"\x1f\x8b broken gzip", "cannot read"),
        ("b.gz", gzip.compress(b"id,date\n" + bytes(range(48, 90)) * 99)[:-9], "cut short"),
        ("b.zip", packed("zip", b"id,date\n")[:-30], "broken"),
        ("a.parquet", b"PAR1 and no more", "cannot read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_what_is_no_table_is_told_by_its_kind(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    if content == b"PK":
        book = io.BytesIO()
        with zipfile.ZipFile(book, "w") as file:
            file.writestr("[Content_Types].xml", "<x/>")
        content = book.getvalue()
    with pytest.raises(InvalidInput, match=kind) as told:
        understand(written(tmp_path, content, name))
    assert "\x1b" not in str(told.value)


def test_a_folder_and_an_archive_hold_many_tables_and_other_things(tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "one.csv").write_text(f"id,date,views\n{ID},2026-01-15,1\n")
    (folder / "two.tsv").write_text(f"videoId\tas_of\tviewCount\n{OTHER}\t2026-01-15\t2\n")
    (folder / "bad.csv").write_text("id,date,views\n#NAME?,2026-01-15,1\n")
    (folder / "readme.pdf").write_bytes(b"%PDF-1.7")
    (folder / ".hidden").write_bytes(b"\0")
    (folder / "old.rejected.csv").write_text("rubbish")
    found = understand(folder)
    assert len(found.samples) == 2
    assert (found.report.rows, found.report.bad) == (3, 1)
    assert any("PDF" in note for note in found.report.notes)
    with (tmp_path / "report.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == "bad.csv"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    assert understand(written(tmp_path, archive.getvalue(), "all.zip")).samples == found.samples


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


def test_a_report_never_destroys_an_input_nor_follows_a_link(tmp_path: Path) -> None:
    path = written(tmp_path, f"id,date,views\n#NAME?,2026-01-15,1\n{ID},2026-01-15,1\n")
    before = path.read_bytes()
    victim = written(tmp_path, "precious", "victim")
    (tmp_path / "soft").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "elsewhere").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("export.csv", "soft", "hard", "elsewhere", "dangling"):
        with pytest.raises(InvalidInput, match="the report"):
            understand(path, report=tmp_path / name)
    assert path.read_bytes() == before
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_too_many_bad_rows_end_an_import_before_it_writes(tmp_path: Path) -> None:
    path = written(tmp_path, f"id,date,views\n#NAME?,2026-01-15,1\n{ID},2026-01-15,1\n")
    for most in ("0", "49%"):
        with pytest.raises(InvalidInput, match="are bad"):
            understand(path, max_bad=most)
    for most in ("1", "50%"):
        assert understand(path, max_bad=most).report.bad == 1


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
