"""The ways in which servers and task queues make processes and threads of a program that used Atlas."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import process_child


@pytest.mark.parametrize("way", process_child.WAYS)
@pytest.mark.usefixtures("database_url")
def test_workers_and_their_parent_read_write_and_archive(way: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", process_child.__file__, way],
        capture_output=True,
        text=True,
        timeout=220,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines[0] == "parent" and lines[-1] == "parent-again"
    assert sorted(lines[1:-1]) in (["a"], ["a", "b", "c"], ["a", "b", "c", "d"])
