"""``atlas db``: the schema of the database."""

from __future__ import annotations

import typer

from atlas.cli.output import answer, out, progress, run

app = typer.Typer(no_args_is_help=True, help="The schema of the database.")

Json = typer.Option(False, "--json", help="One JSON document for programs.")


@app.command()
def upgrade(revision: str = typer.Argument("head"), json: bool = Json) -> None:
    """Bring the database to the newest schema (or REVISION)."""
    from atlas.db import db, migrations

    async def work() -> tuple[str | None, str | None]:
        before = await migrations.current(db)
        await migrations.upgrade(db, revision)
        return before, await migrations.current(db)

    with progress("migrating", quiet=json):
        before, after = run(work())
    text = f"the database is at {after}" + (
        "" if before == after else f", was at {before or 'nothing'}"
    )
    answer({"before": before, "after": after}, json, lambda: out.print(text))


@app.command()
def current(json: bool = Json) -> None:
    """Say which revision the database is at."""
    from atlas.db import db, migrations

    revision = run(migrations.current(db))
    data = {"current": revision, "head": migrations.head()}
    answer(data, json, lambda: out.print(f"{revision or 'nothing'} (newest: {data['head']})"))


@app.command()
def check(json: bool = Json) -> None:
    """Fail (exit 2) unless the database is at the newest revision."""
    from atlas.db import db, migrations

    revision = run(migrations.check(db))
    answer(
        {"current": revision}, json, lambda: out.print(f"the database is at {revision}, the newest")
    )
