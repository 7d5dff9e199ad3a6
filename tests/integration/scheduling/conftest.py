"""A vault for the schedule of old videos, which can be made not to answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.errors import VaultUnavailable
from atlas.reading.footers import footers
from atlas.reading.schedule import bounds, row_groups
from atlas.scheduling.undecided import rests
from atlas.vault import LocalVault
from tests.support.old_videos import Away


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
def dao(database: Database, vault: LocalVault) -> MaiaDAO:
    return MaiaDAO(database, vault)


@pytest.fixture
def away(vault: LocalVault) -> Away:
    """While it is entered the vault does not answer."""

    @contextmanager
    def entered() -> Iterator[None]:
        def no_answer(*_: object) -> None:
            raise VaultUnavailable("no answer")

        row_groups.clear()
        bounds.clear()
        footers.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(vault.store), "open", no_answer)
            yield
        rests.clear()

    return entered
