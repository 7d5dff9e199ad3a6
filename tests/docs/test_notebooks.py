"""The notebooks in examples/ run from top to bottom, as in Jupyter: inside of a running event loop."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.vault import LocalVault
from tests.support.samples import samples

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    return list(json.loads(notebook.read_text())["cells"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
async def test_every_cell_of_a_notebook_runs_without_the_database(
    notebook: Path, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_samples(database, samples(times=30))
    vault = LocalVault(tmp_path / "home/vault")
    await Archiver(database, vault).run(timedelta(days=7))
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = cells_of(notebook)
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "saved without outputs"
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    assert names["report"].rows == 5 * 30
    assert (tmp_path / "top.parquet").exists()
    import matplotlib.pyplot as plt

    plt.close("all")
