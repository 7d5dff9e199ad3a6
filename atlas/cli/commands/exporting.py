"""``atlas export``: samples for other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import typer

from atlas.cli import spans
from atlas.cli.output import answer, number, out, progress, run, size
from atlas.errors import InvalidInput

COLD = typer.Option(False, "--cold", help="Read the vault alone, without the database.")


def export(
    path: Path = typer.Argument(..., metavar="FILE", help="Where to: .parquet, .csv or .jsonl."),
    since: str | None = spans.SINCE,
    until: str | None = spans.UNTIL,
    ids: list[str] = typer.Option(
        [], "--ids", metavar="ID,...", help="Only these videos; may be repeated."
    ),
    ids_file: Path | None = typer.Option(
        None, "--ids-file", exists=True, dir_okay=False, help="Only these: a file of an id a line."
    ),
    columns: str | None = typer.Option(
        None, "--columns", metavar="NAME,...", help="Only these columns, in this order."
    ),
    format: str | None = typer.Option(
        None, "--format", help="parquet, csv or jsonl, whatever the name ends with."
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file if there is one."),
    cold: bool = COLD,
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Write samples of both tiers to a file, each once, in bounded memory."""
    import pyarrow as pa

    from atlas.exporting import export_samples
    from atlas.reader import ColdReader, StatsReader

    first, last = spans.span_of(since, until)
    chosen = list(_listed(ids)) + list(_in_file(ids_file))
    # Arrow's own allocator keeps what was freed, as with `atlas import`
    pa.set_memory_pool(pa.system_memory_pool())
    with progress("exporting", quiet=json) as report_progress:
        report = run(
            export_samples(
                ColdReader() if cold else StatsReader(),
                path,
                chosen if ids or ids_file else None,
                first,
                last,
                None if columns is None else list(_listed([columns])),
                format=format,
                overwrite=force,
                progress=report_progress,
            )
        )
    rate = report.rows / report.seconds if report.seconds else 0
    text = (
        f"{number(report.rows)} samples, {size(report.bytes)} written to {report.path} "
        f"({number(rate)} a second)"
    )
    answer(asdict(report), json, lambda: out.print(text))


def _listed(given: list[str]) -> Iterator[str]:
    for one in given:
        yield from (name.strip() for name in one.split(",") if name.strip())


def _in_file(path: Path | None) -> Iterator[str]:
    if path is None:
        return
    from atlas.types import check_id

    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no text", field="ids_file", value=str(path)) from error
    for row, line in enumerate(lines, 1):
        if line.strip():
            yield check_id(line.strip(), row=row)
