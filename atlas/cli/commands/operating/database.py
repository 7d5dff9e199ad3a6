"""``atlas db``: the schema of the database."""

from __future__ import annotations

from dataclasses import asdict

import typer

from atlas.cli.output import answer, confirm, number, out, progress, run, table

app = typer.Typer(no_args_is_help=True, help="The schema of the database.")

Json = typer.Option(False, "--json", help="One JSON document for programs.")


@app.command()
def upgrade(
    revision: str = typer.Argument("head"),
    take_over: bool = typer.Option(
        False, "--take-over", help="Take over the tables of the platform's first schema."
    ),
    json: bool = Json,
) -> None:
    """Bring the database to the newest schema (or REVISION)."""
    from atlas.db import db
    from atlas.db.administration import migrations

    if take_over:
        _take_over(json)
        return

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


def _take_over(json: bool) -> None:
    from atlas.db import db
    from atlas.importing import takeover

    with progress("taking over", quiet=json) as report_progress:
        report = run(takeover.take_over(db, report_progress))
    rows = [(one.table, number(one.rows), number(one.left_out)) for one in report]

    def show() -> None:
        out.print(table("Taken over", ("table", ">rows", ">left out"), rows))
        out.print("the old tables are kept aside; `atlas db drop-old` drops them")

    answer([asdict(one) for one in report], json, show)


@app.command("drop-old")
def drop_old(
    yes: bool = typer.Option(False, "--yes", help="Do not ask."), json: bool = Json
) -> None:
    """Drop the tables that `upgrade --take-over` moved aside. Their rows cannot be brought back."""
    from atlas.db import db
    from atlas.importing import takeover

    confirm("drop the tables of the platform's first schema?", yes=yes, as_json=json)
    dropped = run(takeover.drop_old(db))
    answer({"dropped": dropped}, json, lambda: out.print(f"dropped {', '.join(dropped)}"))


@app.command()
def stamp(
    revision: str = typer.Argument(..., help="As `atlas db current` said of the backup."),
    json: bool = Json,
) -> None:
    """Note the revision of tables that came back without it; changes no table."""
    from atlas.db import db
    from atlas.db.administration import migrations

    async def work() -> str | None:
        await migrations.stamp(db, revision)
        return await migrations.current(db)

    found = run(work())
    answer({"current": found}, json, lambda: out.print(f"the database is noted to be at {found}"))


@app.command()
def current(json: bool = Json) -> None:
    """Say which revision the database is at."""
    from atlas.db import db
    from atlas.db.administration import migrations

    revision = run(migrations.current(db))
    data = {"current": revision, "head": migrations.head()}
    answer(data, json, lambda: out.print(f"{revision or 'nothing'} (newest: {data['head']})"))


@app.command()
def check(json: bool = Json) -> None:
    """Fail (exit 2) unless the database is at the newest revision."""
    from atlas.db import db
    from atlas.db.administration import migrations

    revision = run(migrations.check(db))
    answer(
        {"current": revision}, json, lambda: out.print(f"the database is at {revision}, the newest")
    )


@app.command()
def roles(
    apply: bool = typer.Option(
        False, "--apply", help="Run the statements instead of printing them."
    ),
    owner: str = typer.Option("atlas_owner", help="Who migrates and archives."),
    worker: str = typer.Option("atlas_worker", help="Who collects: reads and writes rows."),
    reader: str = typer.Option("atlas_reader", help="Who only reads."),
    json: bool = Json,
) -> None:
    """Print the SQL that grants each of three roles what it needs, or run it; repeatable."""
    from atlas.db import db
    from atlas.db.administration.roles import Roles
    from atlas.db.administration.roles import apply as run_grants
    from atlas.db.administration.roles import grants

    names = Roles(owner, worker, reader)

    async def work() -> list[str]:
        if apply:
            return await run_grants(db, names)
        async with db.transaction(read_only=True) as session:
            return await grants(session, names)

    statements = run(work())

    def show() -> None:
        for statement in statements:
            out.print(f"{statement};", soft_wrap=True)

    answer({"applied": apply, "statements": statements}, json, show)
