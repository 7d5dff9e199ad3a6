"""Each line of the page about other programs gives every sample once, as it counts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import ColdReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, Counters, Key, samples, shown_by

PAGE = Path(__file__).parents[2] / "docs/folder-readers.md"
SECTIONS = {
    part.split("\n", 1)[0]: re.findall(r"^```py\n(.*?)^```$", part, re.M | re.S)
    for part in PAGE.read_text().split("\n## ")[1:]
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the programs


@pytest.fixture
async def vault(database: Database, tmp_path: Path) -> LocalVault:
    """Days that were corrected and compacted, before clean-up: of one sample both counters were lost."""
    vault, archiver = LocalVault(tmp_path / "vault"), Archiver(
        database, LocalVault(tmp_path / "vault")
    )
    await record_samples(database, samples(times=30))
    await archiver.run(timedelta(days=7))
    await record_samples(database, [Sample("video-0003", OLD + timedelta(microseconds=3), views=5)])
    await archiver.run(timedelta(days=7))
    await archiver.compact()
    await record_samples(database, [Sample("video-0003", OLD + timedelta(hours=1), views=6)])
    await archiver.run(timedelta(days=7))
    vault.store_transcript("video-0003", {"text": "a document"})
    return vault


def rows_of(found: Any) -> Iterator[dict[str, Any]]:
    """The rows of whatever a program returns."""
    import pandas as pd

    if isinstance(found, pd.DataFrame):
        found = found.convert_dtypes(dtype_backend="pyarrow").astype(object)
        yield from found.where(found.notna(), None).to_dict("records")
    else:
        for name in ("to_arrow_table", "to_arrow"):
            found = getattr(found, name, lambda table=found: table)()
        yield from found.to_pylist()


def seen(found: Any) -> dict[Key, Counters]:
    rows = list(rows_of(found))
    shown = {
        (
            str(row["video_id"]),
            at.to_pydatetime() if hasattr(at := row["timestamp"], "to_pydatetime") else at,
        ): (
            row["views"],
            row["likes"],
            row["comment_count"],
        )
        for row in rows
    }
    assert len(rows) == len(shown)
    return shown


async def test_every_line_gives_each_sample_once_as_it_counts(
    vault: LocalVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    expected = await shown_by(ColdReader(vault))
    assert expected["video-0003", OLD + timedelta(microseconds=3)] == (5, None, None)
    vault.append_metrics([{"video_id": "video-0004", "timestamp": OLD, "views": 9}])
    appended = await shown_by(ColdReader(vault))
    assert len(appended) == len(expected) + 1
    names: dict[str, Any] = {"VAULT": str(tmp_path / "vault")}
    ran = []
    for program, blocks in SECTIONS.items():
        for number, block in enumerate(blocks):
            if program == "Spark":
                ast.parse(block)
                continue
            exec(block, names)
            assert seen(names["newest"]) == (appended if number else expected), program
            ran.append(program)
    assert ran == ["pandas", "polars", "DuckDB", "DuckDB", "pyarrow", "datasets"]


async def test_a_local_vault_has_a_card_that_is_no_object_and_a_persons_own_stays(
    vault: LocalVault, tmp_path: Path
) -> None:
    card = tmp_path / "vault/README.md"
    assert "config_name: video_stats" in card.read_text()
    assert "README.md" not in vault.list_files()
    card.write_text("mine")
    again = LocalVault(tmp_path / "vault")
    again.append_metrics([{"video_id": "a", "timestamp": OLD, "views": 1}])
    assert card.read_text() == "mine"
