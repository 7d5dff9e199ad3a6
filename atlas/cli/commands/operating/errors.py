"""``atlas errors``: what `notifier.capture` and Atlas's own jobs have seen."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from atlas.cli.output import answer, moment, number, out, run, table
from atlas.errors import InvalidInput, NotFound

app = typer.Typer(no_args_is_help=True, help="Errors in groups: list, show, mute, resolve.")

_JSON = typer.Option(False, "--json", help="One JSON document for programs.")
_STATES = ("open", "muted", "resolved")


@app.command("list")
def list_groups(
    state: str = typer.Option(None, "--state", help="open, muted or resolved; default: all."),
    limit: int = typer.Option(50, "--limit", min=1, help="How many of the latest to show."),
    json: bool = _JSON,
) -> None:
    """List groups of errors, the latest first."""
    from atlas.db import db
    from atlas.repositories.notifications import ErrorGroup, ErrorGroups

    if state is not None and state not in _STATES:
        raise InvalidInput(
            f"there is no such state: {state}",
            field="state",
            hint="states are " + ", ".join(_STATES),
        )

    async def work() -> list[ErrorGroup]:
        async with db.transaction(read_only=True) as session:
            return await ErrorGroups(session).latest(state, limit)

    groups = run(work())
    rows = [
        (
            one.fingerprint[:12],
            one.state,
            number(one.count),
            moment(one.last_at),
            one.kind,
            one.place,
            one.message[:60],
        )
        for one in groups
    ]
    columns = ("group", "state", ">times", "last (UTC)", "error", "where", "message")
    answer([asdict(one) for one in groups], json, lambda: out.print(table("Errors", columns, rows)))


@app.command("show")
def show(
    group: str = typer.Argument(..., help="The group, or how it begins."), json: bool = _JSON
) -> None:
    """Show one group with its stack and context."""
    found = _find(group)

    def print_group() -> None:
        for name in ("fingerprint", "state", "level", "kind", "place", "message"):
            out.print(f"{name}: {found[name]}", markup=False)
        out.print(
            f"{number(found['count'])} times, {moment(found['first_at'])} to {moment(found['last_at'])}"
        )
        for name, value in found["context"].items():
            out.print(f"  {name}: {value}", markup=False)
        out.print(found["stack"], markup=False)

    answer(found, json, print_group)


@app.command("mute")
def mute(group: str = typer.Argument(...), json: bool = _JSON) -> None:
    """Go on counting a group, and notify nobody."""
    _set(group, "muted", json)


@app.command("resolve")
def resolve(group: str = typer.Argument(...), json: bool = _JSON) -> None:
    """Call a group mended: if it comes back, that is a regression, and is announced."""
    _set(group, "resolved", json)


def _set(group: str, state: str, json: bool) -> None:
    from atlas.db import db
    from atlas.repositories.notifications import ErrorGroups

    fingerprint = _find(group)["fingerprint"]

    async def work() -> None:
        async with db.transaction() as session:
            await ErrorGroups(session).set_state([fingerprint], state)

    run(work())
    answer(
        {"fingerprint": fingerprint, "state": state},
        json,
        lambda: out.print(f"{fingerprint[:12]} is {state}"),
    )


def _find(prefix: str) -> dict[str, Any]:
    from atlas.db import db
    from atlas.repositories.notifications import ErrorGroups

    async def work() -> list[dict[str, Any]]:
        async with db.transaction(read_only=True) as session:
            return await ErrorGroups(session).show(prefix)

    found = run(work())
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"there is no group {prefix!r:.60}", hint="`atlas errors list` shows them")
    raise InvalidInput(
        f"{prefix!r:.60} begins {len(found)} groups",
        field="group",
        hint="give more of it: " + ", ".join(one["fingerprint"][:12] for one in found[:5]),
    )
