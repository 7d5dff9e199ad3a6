"""``atlas work``: what workers hold, what was put aside, and bringing it back."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum

import typer

from atlas.cli.output import answer, number, out, run, table
from atlas.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="What workers hold, and what was put aside.")


class Kind(StrEnum):
    """The kinds of work, as an argument."""

    HUNT = "hunt"
    TRACK = "track"
    RETRACK = "retrack"
    TRANSCRIPT = "transcript"
    VISUALS = "visuals"


@app.command("ls")
def list_work(
    limit: int = typer.Option(20, "--limit", min=0, help="Rows in quarantine shown of each kind."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Count leases, and list what is in quarantine with its last error."""
    from atlas.scheduling import Work

    async def gather() -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        work = Work()
        counts = [asdict(one) for one in await work.counts()]
        return counts, [asdict(one) for kind in Kind for one in await work.quarantined(kind, limit)]

    counts, aside = run(gather())

    def show() -> None:
        rows = [tuple(_cell(value) for value in one.values()) for one in counts]
        columns = ("kind", ">leased", ">waiting after a failure", ">quarantined")
        out.print(table("Work", columns, rows))
        if aside:
            rows = [tuple(_cell(value) for value in one.values()) for one in aside]
            out.print(table("In quarantine", ("kind", "id", ">attempts", "last error"), rows))
            out.print("bring it back with `atlas work requeue KIND [ID...]`")

    answer({"counts": counts, "quarantined": aside}, json, show)


@app.command()
def requeue(
    kind: Kind = typer.Argument(..., help="The kind of work."),
    ids: list[str] = typer.Argument(None, metavar="[ID]...", help="Which; all if none is named."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Bring work out of quarantine, and named FAILED videos back."""
    from atlas.scheduling import Work

    keys: list[str | int] | None = list(ids) if ids else None
    if keys and kind is Kind.HUNT:
        if not all(one.isdecimal() for one in ids):
            raise InvalidInput("ids of search terms are numbers", hint="see `atlas work ls`")
        keys = [int(one) for one in ids]
    count = run(Work().requeue(kind, keys))
    answer(
        {"requeued": count},
        json,
        lambda: out.print(f"{number(count)} of {kind} can be claimed again"),
    )


def _cell(value: object) -> str:
    return number(value) if isinstance(value, int) else str(value or "")
