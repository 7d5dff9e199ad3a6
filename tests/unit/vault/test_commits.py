"""Commits of a repository stay within their number an hour."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atlas.errors import VaultDenied, VaultError, VaultUnavailable
from atlas.vault.stores.commits import CommitBudget


def test_a_commit_over_the_limit_waits_until_the_oldest_is_an_hour_old(tmp_path: Path) -> None:
    moments = iter([0.0, 100.0, 200.0, 3600.0, 3601.0])
    budget = CommitBudget(tmp_path, "me/data", 2, lambda: next(moments))
    budget.take()
    budget.take()
    with pytest.raises(VaultUnavailable) as caught:
        budget.take()
    assert caught.value.retry_after == 3400.0
    budget.take()
    with pytest.raises(VaultUnavailable):
        budget.take()


def test_all_who_share_the_folder_share_the_limit_of_one_repository(tmp_path: Path) -> None:
    def take(_: int) -> bool:
        try:
            CommitBudget(tmp_path, "me/data", 5, lambda: 9.0).take()
        except VaultUnavailable:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(take, range(16))).count(True) == 5
    CommitBudget(tmp_path, "me/other", 5, lambda: 9.0).take()


def test_a_clock_set_back_and_a_damaged_file_lock_nobody_out(tmp_path: Path) -> None:
    CommitBudget(tmp_path, "me/data", 1, lambda: 9e9).take()
    CommitBudget(tmp_path, "me/data", 1, lambda: 10.0).take()
    (kept,) = (path for path in (tmp_path / "commits").iterdir() if path.suffix != ".lock")
    kept.write_text("10.0\n1x")
    CommitBudget(tmp_path, "me/data", 1, lambda: 11.0).take()


def test_a_count_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "commits").write_text("a file where the folder goes")
    with pytest.raises(VaultError) as caught:
        CommitBudget(tmp_path, "me/data", 1).take()
    assert not isinstance(caught.value, VaultUnavailable | VaultDenied)
