"""What tests of the schedule in the vault share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
Away = Callable[[], AbstractContextManager[None]]


def items(*ids: str) -> list[dict[str, object]]:
    return [{"id": one, "snippet": {"title": "t"}} for one in ids]


def in_files(tmp_path: Path) -> list[str]:
    paths = sorted((tmp_path / "vault" / "schedule").rglob("*.parquet"))
    return sorted(one for path in paths for one in pq.read_table(path)["video_id"].to_pylist())
