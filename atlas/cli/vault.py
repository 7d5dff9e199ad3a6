"""``atlas vault``: what lies in the vault."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import typer

from atlas.cli.output import answer, moment, number, out, run, size, table

app = typer.Typer(no_args_is_help=True, help="What lies in the vault.")


@app.command("ls")
def list_objects(
    prefix: str = typer.Argument("", help="A folder, such as video_stats/date=2026-01-15."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """List objects with size and time."""
    from atlas.vault import get_vault

    objects = list(get_vault().store.list(prefix))
    rows = [(one.key, size(one.size), moment(one.modified_at)) for one in objects]
    title = f"{number(len(objects))} objects, {size(sum(one.size for one in objects))}"
    data = [{"key": one.key, "size": one.size, "modified_at": one.modified_at} for one in objects]
    answer(data, json, lambda: out.print(table(title, ("key", ">size", "modified (UTC)"), rows)))


@app.command()
def fsck(
    deep: bool = typer.Option(False, "--deep", help="Read every object and compare its checksum."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Compare the ledger with the store; exit 1 if they differ."""
    from atlas.archive import Archiver

    findings = run(Archiver().fsck(deep=deep))

    def show() -> None:
        if not findings:
            out.print("ledger and store agree")
            return
        rows = [(one.kind, one.key, one.meaning, one.advice) for one in findings]
        out.print(
            table("Ledger and store differ", ("what", "object", "it means", "what to do"), rows)
        )

    answer([asdict(one) for one in findings], json, show)
    if findings:
        raise typer.Exit(1)


@app.command()
def gc(
    older_than: float = typer.Option(7, "--older-than", min=0, help="Grace period in days."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be deleted."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Delete this database's objects that no ledger row names."""
    from atlas.archive import Archiver

    report = run(Archiver().collect_garbage(timedelta(days=older_than), dry_run=dry_run))
    verb = "would be deleted" if dry_run else "deleted"
    text = f"{number(len(report.keys))} objects {verb}, {size(report.bytes)}"
    if report.kept:
        text += f"; {number(report.kept)} unnamed ones left alone: too young, or another owner's"
    answer(asdict(report), json, lambda: out.print(text))


@app.command()
def adopt(
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Declare that this database is the one the vault belongs to (after restoring a backup)."""
    from atlas.archive import Archiver

    if not yes:
        typer.confirm(
            "Any other copy of this database will be refused from now on. Go on?",
            abort=True,
            err=True,
        )
    epoch = run(Archiver().adopt())
    answer({"epoch": epoch}, json, lambda: out.print(f"adopted; both are at epoch {epoch}"))
