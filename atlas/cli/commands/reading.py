"""``atlas history`` and ``atlas status``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from atlas.cli import spans
from atlas.cli.commands.exporting import COLD
from atlas.cli.output import answer, moment, number, out, run, size, sparkline, table, waiting
from atlas.cli.plotting import check_plot, plot_history
from atlas.errors import NotFound

if TYPE_CHECKING:
    from atlas.scheduling.calendar import CalendarStatus


def history(
    video_id: str = typer.Argument(..., metavar="VIDEO_ID"),
    since: str | None = spans.SINCE,
    until: str | None = spans.UNTIL,
    limit: int = typer.Option(40, "--limit", min=1, help="Rows shown; the sparkline has all."),
    json: bool = typer.Option(
        False, "--json", help="One JSON document for programs, with all rows."
    ),
    plot: Path | None = typer.Option(
        None, "--plot", metavar="FILE", help="Draw them too: a .png, .svg or .pdf (extra `plot`)."
    ),
    cold: bool = COLD,
) -> None:
    """Show the samples of one video, from both tiers."""
    first, last = spans.span_of(since, until)
    if plot is not None:
        check_plot(plot)
    found, hot_from = run(_found(video_id, first, last, cold=cold, drawn=plot is not None))
    if not found.num_rows:
        raise NotFound(
            f"no samples of {video_id} are known" + (" in that time" if since or until else ""),
            hint="check the id; an id that begins with - goes after --",
        )
    rows = found.to_pylist()
    data = {
        "video_id": video_id,
        "samples": [{k: v for k, v in r.items() if k != "video_id"} for r in rows],
    }
    if plot is not None:
        plot_history(plot, video_id, rows, hot_from)
        data["plot"] = str(plot)
    answer(data, json, lambda: show_history(video_id, rows, limit))


async def _found(
    video_id: str, since: datetime | None, until: datetime | None, *, cold: bool, drawn: bool
) -> tuple[Any, datetime | None]:
    """The samples, and for a picture where the hot tier begins."""
    from atlas.db import db
    from atlas.reader import ColdReader, StatsReader
    from atlas.repositories.hot.partitions import Partitions

    reader = ColdReader() if cold else StatsReader()
    found = await reader.history(video_id, since, until)
    if cold or not drawn:
        return found, None
    async with db.transaction(read_only=True) as session:
        attached = await Partitions(session).attached()
    return found, min((one.lower for one in attached), default=None)


def show_history(video_id: str, rows: list[dict[str, Any]], limit: int) -> None:
    """A table of the last ``limit`` samples and a sparkline of all views."""
    before = [None, *[row["views"] for row in rows[:-1]]]
    cells = [
        (
            moment(row["timestamp"]),
            number(row["views"]),
            _gain(row["views"], earlier),
            number(row["likes"]),
            number(row["comment_count"]),
        )
        for row, earlier in zip(rows, before, strict=True)
    ]
    columns = ("time (UTC)", ">views", ">gained", ">likes", ">comments")
    shown = f", the last {limit} shown" if len(rows) > limit else ""
    out.print(table(f"{video_id}: {number(len(rows))} samples{shown}", columns, cells[-limit:]))
    out.print(f"views  {sparkline([row['views'] for row in rows])}")


def status(
    json: bool = typer.Option(False, "--json", help="One JSON document for programs.")
) -> None:
    """Show how full the tiers are, what is due and what waits."""
    from atlas.db import db
    from atlas.status import gather
    from atlas.vault import get_vault

    found = run(gather(db))
    spool = get_vault().pending()
    data = found.as_dict() | {"spool": spool}

    def show() -> None:
        tiers = found.tiers
        rows = [
            (
                name,
                number(tier.rows),
                size(tier.bytes),
                _each(tier.bytes, tier.rows),
                number(tier.tables),
            )
            for name, tier in (("hot", tiers.hot), ("sealed", tiers.sealed), ("cold", tiers.cold))
        ]
        columns = ("samples", ">rows", ">size", ">bytes a row", ">tables or files")
        out.print(table("Tiers", columns, rows))
        out.print(
            f"oldest hot sample {moment(tiers.oldest_hot) or 'none'}; database "
            f"{size(tiers.database_bytes)}; videos in the vault {number(tiers.cold_videos)}"
        )
        for pin in found.pins:
            out.print(f"restored and pinned: {moment(pin.since)} to {moment(pin.until)}")
        if found.watchlist:
            lines = [
                (tier.tier, number(tier.entries), number(tier.due), number(tier.leased))
                for tier in found.watchlist
            ]
            out.print(table("Watchlist", ("tier", ">videos", ">overdue", ">leased"), lines))
        _show_calendar(found.calendar)
        if found.videos:
            videos = [
                (
                    one.status,
                    number(one.videos),
                    number(one.without_transcript),
                    number(one.without_visuals),
                )
                for one in found.videos
            ]
            names = ("status", ">videos", ">need a transcript", ">need visuals")
            out.print(table("Videos", names, videos))
        if found.searches:
            terms = [(one.status, number(one.terms), number(one.leased)) for one in found.searches]
            out.print(table("Search queue", ("status", ">terms", ">leased"), terms))
        if aside := sum(one.quarantined for one in found.work):
            out.print(f"in quarantine: {number(aside)} pieces of work, see `atlas work ls`")
        out.print(f"spool: {waiting(spool)}")

    answer(data, json, show)


def _show_calendar(calendar: CalendarStatus) -> None:
    if calendar.cohorts:
        cohorts = [
            (
                one.month or "DORMANT",
                number(one.videos),
                number(one.in_vault),
                f"{one.interval_days:.1f}",
                moment(one.turned_at),
            )
            for one in calendar.cohorts
        ]
        columns = (
            *("slow videos, published", ">videos", ">in the vault", ">days between samples"),
            "sampled until (UTC)",
        )
        out.print(table(f"Parked: {number(calendar.parked)} videos", columns, cohorts))
    if calendar.budget is not None:
        out.print(
            f"budget {number(calendar.budget)} samples a day, {number(calendar.granted_today)} given to "
            f"workers today; every tier at its own rhythm would take {number(calendar.needed)}"
        )


def _gain(now: int | None, before: int | None) -> str:
    return "" if now is None or before is None else f"{now - before:+,}"


def _each(total: int, rows: int) -> str:
    return f"{total / rows:,.1f}" if rows else ""
