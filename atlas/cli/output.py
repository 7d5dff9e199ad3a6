"""Rendering for people and for programs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from atlas.errors import InvalidInput
from atlas.types import Progress

if TYPE_CHECKING:
    from atlas.vault.spool.metrics import Pending

T = TypeVar("T")

# what comes from a vault or an export may look like markup
_console = functools.partial(Console, highlight=False, markup=False, emoji=False)

#: For answers, and for everything else. Through a pipe no line is wrapped.
out = _console(width=None if sys.stdout.isatty() else 10_000)
err = _console(stderr=True)

_BARS = "▁▂▃▄▅▆▇█"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run an asynchronous command to its end."""
    return asyncio.run(work)


def answer(data: Any, as_json: bool, render: Callable[[], object]) -> None:
    """Print one JSON document, or let ``render`` show the same to a person."""
    if as_json:
        print(json.dumps(data, default=_plain, ensure_ascii=False, indent=2))
    else:
        render()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table whose columns beginning with ``>`` are aligned right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for name in columns:
        # on a narrow terminal a long cell takes more lines, and nothing is cut off
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(
            *[cell if isinstance(cell, Text) else "" if cell is None else str(cell) for cell in row]
        )
    return made


def number(value: float | None) -> str:
    """A number with thousands separated; nothing for None."""
    return "" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    return "" if value is None else decimal(round(value))


def moment(value: datetime | None) -> str:
    """A time in UTC, to the second."""
    from datetime import UTC

    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def waiting(spool: Pending) -> str:
    """What waits on this machine for the vault, in words."""
    refused = f"; it refused {number(spool.refused)} documents" if spool.refused else ""
    if not spool.count:
        return f"nothing waits for the vault{refused}"
    files = f"{number(spool.count)} files, {number(spool.documents)} of them documents"
    since = f"the oldest since {moment(spool.oldest)}"
    return f"{files}, {size(spool.bytes)} wait for the vault, {since}{refused}"


def sparkline(values: Sequence[float | None], width: int = 60) -> str:
    """The course of ``values`` in one line; gaps where a value is not known."""
    if not values:
        return ""
    step = max(1, -(-len(values) // width))
    groups = [values[start : start + step] for start in range(0, len(values), step)]
    means = [
        sum(known) / len(known) if (known := [one for one in group if one is not None]) else None
        for group in groups
    ]
    known = [one for one in means if one is not None]
    if not known:
        return " " * len(means)
    low, span = min(known), (max(known) - min(known)) or 1
    return "".join(
        " " if one is None else _BARS[int((one - low) / span * (len(_BARS) - 1))] for one in means
    )


def confirm(question: str, *, yes: bool, as_json: bool) -> None:
    """Go on only if a person agrees, or ``--yes`` did; a program is not asked."""
    if yes:
        return
    if as_json:
        raise InvalidInput("--json asks nothing", field="yes", hint="confirm with --yes")
    typer.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def progress(title: str, *, quiet: bool = False, in_bytes: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error, on a terminal only; ``in_bytes`` with MB/s and the time left."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich import progress as bars
    from rich.progress import Progress as Bar

    amount: tuple[bars.ProgressColumn, ...] = (
        (bars.DownloadColumn(), bars.TransferSpeedColumn(), bars.TimeRemainingColumn())
        if in_bytes
        else (bars.MofNCompleteColumn(), bars.TimeElapsedColumn())
    )
    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        *amount,
    )
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=f"{title}: {what}"
        )
