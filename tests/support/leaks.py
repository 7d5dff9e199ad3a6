"""Looks for secrets in whatever a program shows."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote


class Leaks:
    """The secrets that must not be shown, by what they are, in each form that may be met."""

    def __init__(self, **secrets: str) -> None:
        self._forms = {
            name: {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
            for name, secret in secrets.items()
        }

    def add_key(self, pem: str) -> None:
        """A private key: each of its lines gives a part of it away."""
        lines = [line for line in pem.splitlines() if "-----" not in line]
        self._forms["private key"] = {line[:40] for line in lines if len(line) >= 40}

    def found(self, *shown: str | bytes) -> set[str]:
        """What each text gives away."""
        text = "\n".join(
            one.decode(errors="replace") if isinstance(one, bytes) else one for one in shown
        )
        return {name for name, forms in self._forms.items() if any(form in text for form in forms)}


def everything_of(error: BaseException) -> str:
    """All that an error, its notes and what caused it can be made to show."""
    told = traceback.format_exception(error)
    for one in _chain(error):
        told += [str(one), repr(one), repr(one.args), repr(vars(one))]
    return "\n".join(told)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def everything_in(folder: Path) -> list[bytes]:
    """The names and contents of all files in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path).encode() for path in files] + [path.read_bytes() for path in files]
