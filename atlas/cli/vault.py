"""``atlas vault``: what lies in the vault."""

from __future__ import annotations

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
