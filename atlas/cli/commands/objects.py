"""``atlas vault get`` and ``cat``: single objects."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import BinaryIO

import typer

from atlas.cli.output import answer, out, size
from atlas.errors import InvalidInput, NotFound

_COPY_BYTES = 4 << 20
_KEY = typer.Argument(..., metavar="KEY", help="As `atlas vault ls` shows it, or a URI.")


def get(
    key: str = _KEY,
    output: Path | None = typer.Option(
        None, "--output", "-o", metavar="FILE", help="Where to (default: its own name, here)."
    ),
    force: bool = typer.Option(False, "--force", help="Replace the file if there is one."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Copy an object of the vault to a file, which appears whole or not at all."""
    from atlas.vault import files

    name = key.rstrip("/").rsplit("/", 1)[-1]
    path = Path(name) if output is None else output / name if output.is_dir() else output
    if path.is_dir() or (path.exists() and not force):
        raise _taken(path)
    with _opened(key) as source, files.raised_as_vault_error(str(path)):
        staged = files.stage(
            path.parent, lambda target: shutil.copyfileobj(source, target, _COPY_BYTES)
        )
        written = staged.stat().st_size
        try:
            (files.replace if force else files.create)(staged, path)
        except FileExistsError:
            raise _taken(path) from None
        finally:
            staged.unlink(missing_ok=True)
    data = {"key": key, "path": str(path), "bytes": written}
    answer(data, json, lambda: out.print(f"{size(written)} written to {path}"))


def cat(key: str = _KEY) -> None:
    """Write an object of the vault to standard output; to a terminal text only, without controls."""
    with _opened(key) as source:
        if not sys.stdout.isatty():
            shutil.copyfileobj(source, sys.stdout.buffer, _COPY_BYTES)
            return
        content = source.read(_COPY_BYTES)
        if b"\0" in content:
            raise InvalidInput(
                f"{key} is no text", field="key", value=key, hint="use `atlas vault get`"
            )
        while content:
            sys.stdout.write(shown(content.decode(errors="replace")))
            content = source.read(_COPY_BYTES)


def shown(text: str) -> str:
    """The text as a terminal may have it."""
    return "".join(
        one if one in "\n\t" or one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text
    )


def _opened(key: str) -> BinaryIO:
    from atlas.vault import get_vault

    source = get_vault().open_binary(key)
    if source is None:
        raise NotFound(f"the vault has no {key}", hint="`atlas vault ls` lists what there is")
    return source


def _taken(path: Path) -> InvalidInput:
    return InvalidInput(f"{path} exists already", field="output", hint="--force replaces a file")
