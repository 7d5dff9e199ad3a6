"""The dataset card: by its head `datasets.load_dataset` and the Hub know which files are which table."""

from __future__ import annotations

from atlas.tables.archived import ARCHIVED

TEXT = """
Video statistics kept by Atlas, as tables that `datasets.load_dataset` reads by name: `video_stats`,
`metrics`, `videos` and `schedule` (videos of long ago that are sampled still). Of several rows with the same
`video_id` and `timestamp` the one with the highest `seq` counts.
"""


def tables(prefix: str) -> dict[str, str]:
    """Which files are a table, by its name."""
    return {
        str(table.dataset): f"{prefix}{table.dataset}/{table.folders}*.parquet"
        for table in ARCHIVED.values()
    }


def fresh_card() -> str:
    """The card of a vault that has none."""
    configs = "".join(
        f"- config_name: {name}\n  data_files: {files}\n" for name, files in tables("").items()
    )
    return f"---\nconfigs:\n{configs}---\n{TEXT}"
