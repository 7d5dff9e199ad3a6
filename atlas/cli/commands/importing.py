"""``atlas import``: take in an export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from atlas.cli.output import answer, number, out, progress, run, table
from atlas.errors import InvalidInput


def import_file(
    file: Path = typer.Argument(
        ..., exists=True, dir_okay=False, readable=True, help="CSV, plain or gzip."
    ),
    mapping: list[str] = typer.Option(
        [], "--map", metavar="FIELD=COLUMN", help="Which column holds a field; may be repeated."
    ),
    date_format: list[str] = typer.Option(
        [],
        "--date-format",
        help="How dates are written (strptime); may be repeated, tried in order. Default: ISO 8601. "
        "%d.%m also reads 1.1 as 1 October: 01.10 after a spreadsheet took it for a number.",
    ),
    year: int | None = typer.Option(
        None, "--year", min=1970, max=9999, help="The year, for formats without."
    ),
    report: Path | None = typer.Option(
        None,
        "--report",
        dir_okay=False,
        help="Where bad rows go (default: FILE.rejected.csv, here).",
    ),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Import videos and their counters; bad rows go to a report."""
    from atlas.db import db
    from atlas.importing.importer import import_csv

    columns = dict(_pair(one) for one in mapping)
    with progress("importing", quiet=json) as tell:
        found = run(
            import_csv(
                db,
                file,
                columns=columns,
                date_formats=date_format,
                year=year,
                rejected=report,
                progress=tell,
            )
        )

    def show() -> None:
        out.print(
            f"{number(found.rows)} rows read: {number(found.good)} good, {number(found.bad)} bad; "
            f"{number(found.samples)} samples of {number(found.videos)} videos"
        )
        if found.bad:
            rows = [(number(count), reason) for reason, count in sorted(found.reasons.items())]
            out.print(table(f"Bad rows, listed in {found.rejected}", (">rows", "reason"), rows))

    answer(asdict(found), json, show)


def _pair(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not equals or not name or not column:
        raise InvalidInput(f"--map {text} is not FIELD=COLUMN", field="map", value=text)
    return name.strip(), column.strip()
