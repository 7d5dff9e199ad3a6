"""A put of several objects that fails in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.vault import LocalVault


def test_a_put_that_fails_deletes_nothing_of_what_it_created(tmp_path: Path) -> None:
    """A copy of the database may count on it by then."""
    store = LocalVault(tmp_path / "vault", home=tmp_path / "home").store
    whole = tmp_path / "whole"
    whole.write_bytes(b"whole")
    with pytest.raises(FileNotFoundError):
        store.put_files([("a/1", whole), ("a/2", tmp_path / "missing")])
    assert store.get_bytes("a/1") == b"whole"
    assert store.stat("a/2") is None
