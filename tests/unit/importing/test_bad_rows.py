"""A row that cannot be read costs itself alone, and is reported so that it can be mended."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from atlas.errors import InvalidInput
from tests.support.importing import DAY, ID, OTHER, understand, written


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


@pytest.mark.parametrize("time", ["2099-01-01", "1969-12-31"])
def test_a_time_out_of_range_is_bad_also_where_all_are_written_alike(
    tmp_path: Path, time: str
) -> None:
    found = understand(written(tmp_path, f"id,date,views\n{ID},2026-01-15,1\n{OTHER},{time},2\n"))
    assert found.samples == {(ID, DAY): (1, None, None)}
    assert (found.report.good, found.report.bad) == (1, 1)
