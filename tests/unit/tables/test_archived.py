"""The declarations of archived tables fit together."""

from __future__ import annotations

import pytest

from atlas.repositories.finished import FINISHED
from atlas.tables.archived import ARCHIVED, Origin, archived, of_origin
from atlas.types import Dataset
from atlas.vault.stores.card import tables


def test_every_folder_is_declared_and_is_a_table_of_the_card() -> None:
    assert set(ARCHIVED) == set(Dataset)
    assert set(tables("")) == set(Dataset)


def test_tables_of_finished_rows_say_in_postgresql_which_rows_those_are() -> None:
    assert set(FINISHED) == {table.dataset for table in of_origin(Origin.FINISHED)}


def test_keys_and_videos_are_columns() -> None:
    for table in ARCHIVED.values():
        assert {*table.key, table.video_column or "seq", "seq"} <= set(table.schema.names)


def test_what_is_not_declared_is_no_table() -> None:
    with pytest.raises(ValueError, match="comments"):
        archived("comments")
