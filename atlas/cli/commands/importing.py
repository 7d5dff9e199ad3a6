"""``atlas import``: take in exports."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from atlas.cli.output import answer, err, number, out, progress, run, table
from atlas.errors import InvalidInput

if TYPE_CHECKING:
    from atlas.importing.report import ImportReport


def import_files(
    files: list[Path] = typer.Argument(
        ...,
        metavar="FILE...",
        help="Files, folders or - (standard input): CSV and its relatives, JSON, JSON lines, Parquet, "
        "also in gzip, bzip2, xz, zstd or zip. The kind is detected from the content.",
    ),
    mapping: list[str] = typer.Option(
        [], "--map", metavar="FIELD=COLUMN", help="Which column holds a field; may be repeated."
    ),
    date_format: list[str] = typer.Option(
        [],
        "--date-format",
        help="How the times of samples are written (strptime); may be repeated, tried in order. "
        "Default: detected from the whole column. %d.%m also reads 1.1 as 1 October where the column shows "
        "that a spreadsheet dropped the zero of 01.10; %d.%-m never does, %d.%0m always.",
    ),
    published_format: list[str] = typer.Option(
        [], "--published-format", help="The same for the times of publication."
    ),
    year: int | None = typer.Option(
        None, "--year", min=1970, max=9999, help="The year, for dates without."
    ),
    delimiter: str | None = typer.Option(
        None, "--delimiter", help="What separates cells: one character, or tab. Default: detected."
    ),
    encoding: str | None = typer.Option(
        None, "--encoding", help="The encoding of text, such as cp1252. Default: detected."
    ),
    timestamp: str | None = typer.Option(
        None,
        "--timestamp",
        metavar="TIME",
        help="When the counters of rows without a time were read.",
    ),
    video_id: str | None = typer.Option(
        None, "--video-id", metavar="ID", help="The video of a table without ids (id or address)."
    ),
    max_bad: str | None = typer.Option(
        None,
        "--max-bad",
        metavar="N|N%",
        help="Import nothing where more rows are bad. Default: any number.",
    ),
    report: Path | None = typer.Option(
        None,
        "--report",
        dir_okay=False,
        help="Where rows go that are bad or lost a field (default: FILE.rejected.csv, here).",
    ),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Import videos and their counters; bad rows go to a report. Exits with 1 if no row was good."""
    import pyarrow as pa

    from atlas.db import db
    from atlas.importing.importer import import_files
    from atlas.importing.options import Options, parse_time
    from atlas.importing.report import ImportReport

    for one in files:
        if str(one) != "-" and not one.exists():
            raise typer.BadParameter(f"{one}: there is no such file", param_hint="FILE")
    options = Options(
        columns=dict(_pair(one) for one in mapping),
        date_formats=tuple(date_format),
        published_formats=tuple(published_format),
        year=year,
        delimiter=delimiter,
        encoding=encoding,
        timestamp=None if timestamp is None else parse_time(timestamp),
        video_id=video_id,
        max_bad=max_bad,
        report=report,
    )
    found = ImportReport()
    # Arrow's own allocator keeps for each thread what was freed: some 80 MB here
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        with progress("importing", quiet=json, in_bytes=True) as report_progress:
            run(import_files(db, files, options, progress=report_progress, report=found))
    except KeyboardInterrupt:
        err.print(
            f"{number(found.samples)} samples are in. Nothing is lost by importing the same again: "
            "what is there is left as it is"
        )
        raise
    answer(asdict(found), json, lambda: _show(found))
    if not found.good:
        raise typer.Exit(1)


def _show(found: ImportReport) -> None:
    from atlas.importing.columns.fields import COUNTERS

    for mapping in found.mapping:
        read = ", ".join(
            field if field == column else f"{field} from {column}"
            for field, column in mapping.items()
        )
        out.print(f"Read: {read}")
    if found.ignored:
        out.print(f"Ignored columns: {', '.join(found.ignored)}")
    if found.good and not any(set(COUNTERS) & mapping.keys() for mapping in found.mapping):
        out.print("No column was read as a counter; if one is, say which with --map views=COLUMN")
    for note in found.notes:
        out.print(f"Note: {note}")
    skipped = f", {number(found.skipped)} skipped" if found.skipped else ""
    out.print(
        f"{number(found.rows)} rows read: {number(found.good)} good, {number(found.bad)} bad{skipped}; "
        f"{number(found.samples)} samples of {number(found.videos)} videos"
    )
    out.print(
        f"Samples: {number(found.new)} new, {number(found.replaced)} replaced, "
        f"{number(found.unchanged)} unchanged"
    )
    if found.without_counters:
        out.print(f"{number(found.without_counters)} good rows have no counter, and made no sample")
    if found.forgotten:
        out.print(f"{number(found.forgotten)} samples of forgotten videos were left out")
    for title, reasons in (
        (f"Bad rows, listed in {found.rejected}", found.reasons),
        (f"Good rows that lost a field, listed in {found.rejected}", found.lost),
        ("Skipped", found.skipped_reasons),
    ):
        if reasons:
            rows = [(number(count), reason) for reason, count in sorted(reasons.items())]
            out.print(table(title, (">rows", "reason"), rows))
    if not found.good:
        out.print("Nothing was imported: no row was good")


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals or not name or not column:
        raise InvalidInput(f"--map {text} is not FIELD=COLUMN", field="map", value=text)
    return name.strip(), column.strip()
