"""Fixtures of the fault suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.db import Database
from tests.support.archive_child import Child, Orders


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Any]:
    """Starts a child that works on the test's database and vault; all are gone at the end."""
    children: list[Child] = []

    def start(job: str, **orders: Any) -> Child:
        log = tmp_path / f"child-{len(children)}.log"
        children.append(Child(Orders(job, str(database._url), tmp_path / "vault", log, **orders)))
        return children[-1]

    yield start
    for child in children:
        child.kill()
