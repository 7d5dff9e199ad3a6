"""``atlas health``: whether this machine can work, for containers and load balancers."""

from __future__ import annotations

import typer

from atlas.cli.output import answer, err, out, run


def health(
    timeout: float = typer.Option(5.0, "--timeout", min=0.1, help="Seconds to wait for an answer."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Ask PostgreSQL for one answer; exit 0 if it came, 1 if not. `atlas doctor` looks at the rest."""
    reason = run(_reason(timeout))

    def show() -> None:
        if reason is None:
            out.print("healthy")
        else:
            err.print(f"unhealthy: {reason}", soft_wrap=True)

    answer({"healthy": reason is None, "reason": reason}, json, show)
    if reason is not None:
        raise typer.Exit(1)


async def _reason(timeout: float) -> str | None:
    """Why this machine is not healthy, or None."""
    import asyncio

    from atlas.db.sessions import ask, configured_target
    from atlas.errors import AtlasError

    try:
        async with asyncio.timeout(timeout):
            await ask(await configured_target())
    except TimeoutError:
        return f"the database did not answer in {timeout:g} s"
    except AtlasError as error:
        return error.message
    return None
