"""Files of this machine, and their locks."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.errors import VaultError, VaultUnavailable
from atlas.vault.files import locked


def test_a_lock_that_another_one_holds_is_waited_for_so_long(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock):
        with (
            pytest.raises(VaultUnavailable, match="could not acquire the lock") as caught,
            locked(lock, 0.0),
        ):
            raise AssertionError("two hold it")
        assert "another process" in str(caught.value.hint)
    with locked(lock, 0.0):
        pass


def test_a_lock_where_no_folder_is_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VaultError), locked(tmp_path / "file" / ".lock", 0.0):
        pass
