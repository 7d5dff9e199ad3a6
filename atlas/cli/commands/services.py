"""``atlas keys``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import typer

from atlas.cli.output import answer, out, table
from atlas.errors import ConfigurationError


def keys(
    json: bool = typer.Option(False, "--json", help="One JSON document for programs.")
) -> None:
    """Show the rings of API keys, masked."""
    from atlas.config import POOLS
    from atlas.keys import KeyRing

    rings = {}
    for pool in POOLS:
        # a ring may be empty by the settings; `atlas doctor` says what to set
        with suppress(ConfigurationError):
            rings[pool] = [asdict(one) for one in KeyRing(pool).status()]
    rows = [
        (pool, one["key"], one["project"], "no" if one["disabled"] else "yes")
        for pool, ring in rings.items()
        for one in ring
    ]
    answer(
        rings,
        json,
        lambda: out.print(table("API keys", ("ring", "key", "project", "usable"), rows)),
    )
