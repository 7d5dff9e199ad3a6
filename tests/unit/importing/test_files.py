"""What holds a table: encodings, delimiters, compression, folders, and files of other kinds."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from atlas.errors import InvalidInput
from atlas.importing.files.text import detected
from tests.support.importing import DAY, ID, OTHER, understand, written


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


@pytest.mark.parametrize(
    ("encoding", "title"),
    [
        ("cp1252", "Été à Zürich – fin “quoted”"),
        ("cp1252", "São Paulo não é tão fácil; ação"),
        ("cp1252", "Crème brûlée façon grand-mère"),
        ("cp1252", "Smörgåsbord på svenska är gott"),
        ("cp1250", "Zażółć gęślą jaźń"),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy"),
        ("cp1250", "Árvíztűrő tükörfúrógép"),
        ("cp1254", "Güneş doğdu, kız çocuğu ağladı"),
    ],
)
@pytest.mark.parametrize("repeated", [1, 20])
def test_neighbouring_code_pages_are_told_by_the_alphabets_of_languages(
    encoding: str, title: str, repeated: int
) -> None:
    sample = "\n".join([title] * repeated).encode(encoding)
    assert sample.decode(detected(sample)) == "\n".join([title] * repeated)


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
    (folder / "notes.txt").write_text(
        "About this export:\nit was made by hand, \x1b[2J and\nso on\n"
    )
    categories = {"kind": "youtube#videoCategory", "id": "1", "snippet": {"title": "Film"}}
    (folder / "categories.json").write_text(json.dumps({"items": [categories]}))
    found = understand(folder)
    assert len(found.samples) == 2
    assert (found.report.rows, found.report.bad, found.report.skipped) == (4, 1, 1)
    assert any("PDF" in note for note in found.report.notes)
    assert any("a counter: About this export" in note for note in found.report.notes)
    with (tmp_path / "report.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["file"] == "bad.csv"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, path.name)
    assert understand(written(tmp_path, archive.getvalue(), "all.zip")).samples == found.samples


def test_a_table_with_counters_and_without_ids_is_not_left_out_of_several(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "one.csv").write_text(f"id,date,views\n{ID},2026-01-15,1\n")
    (tmp_path / "exports" / "two.csv").write_text("date,views\n2026-01-15,2\n")
    with pytest.raises(InvalidInput, match="no column for video_id"):
        understand(tmp_path / "exports")
