"""The course of a video's counters as a picture."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from atlas.errors import ConfigurationError, InvalidInput

_HOUR = 3600.0
_KINDS = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise before anything is read where no picture can be made of it."""
    if path.suffix.lower() not in _KINDS:
        raise InvalidInput(
            f"{path.name!r} names no kind of picture",
            field="plot",
            value=str(path),
            hint=f"end the name with one of {' '.join(_KINDS)}",
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError(
            "pictures need matplotlib, which is not installed",
            hint='pip install "pleiades-atlas[plot]"',
        )


def plot_history(
    path: Path, video_id: str, rows: list[dict[str, Any]], hot_from: datetime | None
) -> None:
    """Draw views, likes and velocity (views an hour) into a file; cold and hot times are shaded apart.

    ``hot_from`` is where the hot tier begins (None: all is cold).
    """
    from matplotlib.figure import Figure

    # here: the vault's modules would cost each command half a second
    from atlas.vault import files

    dates: Any = importlib.import_module("matplotlib.dates")  # its annotations are partial

    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    axes[0].set_title(f"{video_id}: {len(rows):,} samples, times in UTC")
    lines: dict[str, Sequence[tuple[datetime, float]]] = {
        "views": known(rows, "views"),
        "likes": known(rows, "likes"),
        "views an hour": velocity(rows),
    }
    for axis, (label, points) in zip(axes, lines.items(), strict=True):
        axis.plot([at for at, _ in points], [value for _, value in points], "o-", ms=2, lw=1)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.yaxis.set_major_formatter(_grouped)
        axis.margins(x=0.01)
        if not points:
            axis.set_yticks([])
            axis.text(0.5, 0.5, "not known", transform=axis.transAxes, ha="center", va="center")
    ticks = dates.AutoDateLocator()
    axes[-1].xaxis.set_major_locator(ticks)
    axes[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(ticks))
    _shade(axes, rows[0]["timestamp"], rows[-1]["timestamp"], hot_from)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix.lower().removeprefix("."), dpi=120)
    with files.raised_as_vault_error(str(path)):
        staged = files.stage(path.parent, lambda target: target.write(picture.getvalue()))
        files.replace(staged, path)


def _grouped(value: float, place: int | None = None) -> str:
    """A number on an axis."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}".rstrip("0")


def known(rows: list[dict[str, Any]], name: str) -> list[tuple[datetime, int]]:
    """The samples in which a counter is known."""
    return [(row["timestamp"], row[name]) for row in rows if row[name] is not None]


def velocity(rows: list[dict[str, Any]]) -> list[tuple[datetime, float]]:
    """Views gained an hour since the sample before, at the time of each sample."""
    points = known(rows, "views")
    return [
        (now, (views - before) / ((now - then).total_seconds() / _HOUR))
        for (then, before), (now, views) in pairwise(points)
    ]


def _shade(axes: Any, first: datetime, last: datetime, hot_from: datetime | None) -> None:
    edge = min(max(hot_from or last, first), last).astimezone(UTC)
    parts = [("cold (vault)", "tab:blue", first, edge)]
    if hot_from is not None and hot_from <= last:
        parts.append(("hot (database)", "tab:orange", edge, last))
    for label, colour, start, end in parts:
        if start < end or len(parts) == 1:
            for axis in axes:
                axis.axvspan(start, end, color=colour, alpha=0.08, lw=0, label=label)
    axes[0].legend(loc="upper left", frameon=False)
