"""The program ``atlas``: its commands, and what an error looks like.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 another archiver is at work, 130 interrupted.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup

from atlas.cli.commands import (
    archiving,
    database,
    demo,
    doctor,
    endpoints,
    events,
    importing,
    keys,
    reading,
    vault,
    work,
)
from atlas.cli.output import err, out
from atlas.errors import ArchiverBusy, AtlasError, ConfigurationError, InvalidInput


class Program(TyperGroup):
    """Tells foreseen errors in two lines and sets the exit code; with ``--debug`` they are raised."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except AtlasError as error:
            if ctx.params["debug"]:
                raise
            err.print(f"error: {error.message}", soft_wrap=True)
            if error.hint:
                err.print(f"hint: {error.hint}", soft_wrap=True)
            raise typer.Exit(exit_code(error)) from None


app = typer.Typer(
    cls=Program,
    name="atlas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Tiered storage and work coordination for what a platform learns about videos.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from atlas import __version__

        out.print(f"atlas {__version__}")
        raise typer.Exit


@app.callback()
def prepare(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version."
    ),
    debug: bool = typer.Option(
        False, "--debug", envvar="ATLAS_DEBUG", help="Show where an error comes from."
    ),
) -> None:
    """Log to standard error from here on."""
    from atlas.config import get_settings
    from atlas.logging import configure

    # wrong settings are told by the command that needs them: its --help works without
    with suppress(ConfigurationError):
        configure(get_settings())


app.add_typer(database.app, name="db")
app.add_typer(vault.app, name="vault")
app.add_typer(work.app, name="work")
app.add_typer(keys.app, name="keys")
events.app.add_typer(endpoints.endpoints, name="endpoints")
events.app.add_typer(endpoints.route, name="route")
app.add_typer(events.app, name="events")
app.command("demo")(demo.demo)
app.command("import")(importing.import_file)
app.command("archive")(archiving.archive)
app.command("janitor")(archiving.janitor)
app.command("history")(reading.history)
app.command("status")(reading.status)
app.command("doctor")(doctor.doctor)


def exit_code(error: AtlasError) -> int:
    """The exit code for an error of the tree."""
    if isinstance(error, ArchiverBusy):
        return 3
    return 2 if isinstance(error, ConfigurationError | InvalidInput) else 1


def main() -> None:
    """Run the program; its arguments are those of the process."""
    if isinstance(sys.stdout, TextIOWrapper):
        # a terminal without sparklines shows question marks rather than a traceback
        sys.stdout.reconfigure(errors="replace")
    app()
