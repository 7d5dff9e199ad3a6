"""``atlas config``: the settings in force, and where each comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from atlas.cli.output import answer, out, table


def config(
    changed: bool = typer.Option(False, "--changed", help="Leave out what has its default."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Show every setting with its source: environment, .env or default. Secrets are masked."""
    rows = [row for row in effective() if not changed or row["source"] != "default"]
    cells = [(row["variable"], _cell(row["value"]), row["source"]) for row in rows]
    answer(rows, json, lambda: out.print(table("Settings", ("variable", "value", "source"), cells)))


def effective() -> list[dict[str, Any]]:
    """Variable, value and source of each setting; a secret that is set is ``**********``."""
    from dotenv import dotenv_values
    from pydantic import SecretStr

    from atlas.config import Settings, get_settings

    settings = get_settings()
    file = dotenv_values(".env") if Path(".env").is_file() else {}
    sources: list[tuple[str, Mapping[str, str | None]]] = [
        ("environment", os.environ),
        (".env", file),
    ]
    rows = []
    for field in Settings.model_fields:
        variables = [field.upper(), *(["HF_DATASET_ID"] if field == "hf_repo_id" else [])]
        source = "default"
        for name, values in sources:
            held = {key.upper() for key, value in values.items() if value and value.strip()}
            if found := [variable for variable in variables if variable in held]:
                source = name if found[0] == variables[0] else f"{name}, as {found[0]}"
                break
        value = getattr(settings, field)
        shown = str(value) if isinstance(value, SecretStr | Path) else value
        rows.append({"variable": variables[0], "value": shown, "source": source})
    return rows


def _cell(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
