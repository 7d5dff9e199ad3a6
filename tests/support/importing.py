"""Understanding small files as an import does, without a database."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from atlas.importing.importer import Job, Options
from atlas.importing.report import ImportReport

LATEST = datetime(2030, 1, 1, tzinfo=UTC)
DAY = datetime(2026, 1, 15, tzinfo=UTC)
ID, OTHER = "jt2OHQh0HoQ", "9bZkp7q19f0"


@dataclass
class Understood:
    """What an import would write: samples by (id, time), facts by id, and its report."""

    samples: dict[tuple[str, datetime], tuple[int | None, ...]]
    videos: dict[str, dict[str, Any]]
    report: ImportReport

    @property
    def sample(self) -> tuple[int | None, ...]:
        """The counters of the only sample."""
        (counters,) = self.samples.values()
        return counters

    @property
    def moment(self) -> datetime:
        """The time of the only sample."""
        ((_, moment),) = self.samples
        return moment


def written(folder: Path, content: str | bytes, name: str = "export.csv") -> Path:
    """A file of this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def understand(*paths: Path, **options: Any) -> Understood:
    """Read files as an import does; the report lies beside the first."""
    made = Options(**options)
    if made.report is None:
        made = dataclasses.replace(made, report=paths[0].parent / "report.csv")
    with tempfile.TemporaryDirectory() as folder:
        job = Job(Path(folder), paths, made, LATEST, lambda done, total, what: None)
        job.prepare()
        samples = {
            (row["video_id"], row["timestamp"]): (row["views"], row["likes"], row["comment_count"])
            for table in job.samples
            for row in table.to_pylist()
        }
        videos: dict[str, dict[str, Any]] = {}
        for _, facts in job.facts:
            for row in facts.to_pylist():
                known = {name: value for name, value in row.items() if value is not None}
                videos.setdefault(row["video_id"], {}).update(known)
    return Understood(samples, videos, job.report)
