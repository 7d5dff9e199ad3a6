"""``atlas archive`` and ``atlas janitor``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import typer

from atlas.cli.output import answer, number, out, progress, run, size


def archive(
    older_than: float | None = typer.Option(
        None,
        "--older-than",
        min=0,
        max=36_500,
        help="Age in days (default: JANITOR_RETENTION_DAYS).",
    ),
    max_rows: int | None = typer.Option(
        None, "--max-rows", min=1, help="Stop after the slice that reaches so many rows."
    ),
    wait: bool = typer.Option(False, "--wait", help="Wait for another archiver instead of exit 3."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be archived."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Move samples older than the retention from PostgreSQL to the vault."""
    from atlas.archive import Archiver

    age = None if older_than is None else timedelta(days=older_than)
    with progress("archiving", quiet=json) as report_progress:
        report = run(Archiver().run(age, max_rows, dry_run, report_progress, wait=wait))

    def show() -> None:
        verb = "would be archived" if dry_run else "archived"
        if not report.rows:
            out.print("nothing to archive" if dry_run else "nothing was left to archive")
            return
        text = f"{number(report.rows)} rows {verb} in {report.slices} slices"
        if not dry_run:
            text += f": {size(report.bytes)}, {report.bytes / report.rows:.1f} bytes a row"
            text += f", {report.seconds:.1f} s"
        if report.late_rows:
            text += f"; {number(report.late_rows)} of them late"
        out.print(text)

    answer(asdict(report), json, show)


def janitor(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only count what would be deleted."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Delete finished videos that are safe in the vault, and make partitions ahead."""
    from atlas.janitor import Janitor

    result: dict[str, Any] = run(Janitor().run(dry_run=dry_run))

    def show() -> None:
        if "would_delete" in result:
            out.print(f"{number(result['would_delete'])} videos would be deleted")
        elif "reason" in result:
            out.print(f"nothing deleted: {result['reason'].replace('_', ' ')}")
        else:
            out.print(
                f"{number(result['deleted'])} videos discovered before "
                f"{result['cutoff_date'][:19]} deleted"
            )

    answer(result, json, show)
