"""The program ``atlas``: its commands. What an error looks like is in `atlas.cli.failures`."""

from __future__ import annotations

import sys
from contextlib import suppress
from io import TextIOWrapper

import typer

from atlas.cli import failures
from atlas.cli.commands import (
    archiving,
    demo,
    endpoints,
    events,
    exporting,
    importing,
    reading,
    vault,
    work,
)
from atlas.cli.commands.operating import configuration, database, doctor, errors, health, keys
from atlas.cli.output import out
from atlas.errors import ConfigurationError

app = typer.Typer(
    name="atlas",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tiered storage and work coordination for what a platform learns about videos.",
    epilog=failures.EXIT_CODES,
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

    failures.show_tracebacks(debug)
    # wrong settings are reported by the command that needs them: its --help works without
    with suppress(ConfigurationError):
        configure(get_settings())


app.add_typer(database.app, name="db")
app.add_typer(vault.app, name="vault")
app.add_typer(work.app, name="work")
app.add_typer(keys.app, name="keys")
events.app.add_typer(endpoints.endpoints, name="endpoints")
events.app.add_typer(endpoints.route, name="route")
app.add_typer(events.app, name="events")
app.add_typer(errors.app, name="errors")
app.command("demo")(demo.demo)
app.command("import")(importing.import_files)
app.command("export")(exporting.export)
app.command("archive")(archiving.archive)
app.command("janitor")(archiving.janitor)
app.command("history")(reading.history)
app.command("status")(reading.status)
app.command("doctor")(doctor.doctor)
app.command("health")(health.health)
app.command("config")(configuration.config)


def main() -> None:
    """Run the program; its arguments are those of the process."""
    if isinstance(sys.stdout, TextIOWrapper):
        # a terminal without sparklines shows question marks rather than a traceback
        sys.stdout.reconfigure(errors="replace")
    sys.exit(failures.guard(lambda: app(standalone_mode=False), sys.argv[1:]))
