"""``atlas vault``: what lies in the vault."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import typer

from atlas.cli import spans
from atlas.cli.commands import objects, recovery
from atlas.cli.output import answer, confirm, err, moment, number, out, progress, run, size, table
from atlas.errors import InvalidInput, VaultUnavailable

if TYPE_CHECKING:
    from atlas.repositories.ring.membership import Answers
    from atlas.scheduling.undecided import Undecided

app = typer.Typer(no_args_is_help=True, help="What lies in the vault.")


@app.command("ls")
def list_objects(
    prefix: str = typer.Argument("", help="A folder, such as video_stats/date=2026-01-15."),
    forgotten: bool = typer.Option(False, "--forgotten", help="List the erased ids instead."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """List objects with size and time, or the ids that `forget` barred."""
    if forgotten:
        return _list_forgotten(json)
    from atlas.vault import get_vault

    objects = list(get_vault().store.list(prefix))
    rows = [(one.key, size(one.size), moment(one.modified_at)) for one in objects]
    title = f"{number(len(objects))} objects, {size(sum(one.size for one in objects))}"
    data = [{"key": one.key, "size": one.size, "modified_at": one.modified_at} for one in objects]
    answer(data, json, lambda: out.print(table(title, ("key", ">size", "modified (UTC)"), rows)))


@app.command()
def fsck(
    deep: bool = typer.Option(False, "--deep", help="Read every object and compare its checksum."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Compare the ledger with the store; exit 1 if they differ."""
    from atlas.archive import Archiver

    with progress("checking", quiet=json) as report_progress:
        findings = run(Archiver().fsck(deep=deep, progress=report_progress))

    def show() -> None:
        if not findings:
            out.print("ledger and store agree")
            return
        rows = [(one.kind, one.key, one.meaning, one.advice) for one in findings]
        out.print(
            table("Ledger and store differ", ("what", "object", "it means", "what to do"), rows)
        )

    answer([asdict(one) for one in findings], json, show)
    if findings:
        raise typer.Exit(1)


@app.command()
def gc(
    older_than: float = typer.Option(
        7, "--older-than", min=0, max=36_500, help="Grace period in days."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be deleted."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Delete objects that the ledger calls replaced or given up, past the grace period."""
    from atlas.archive import Archiver

    report = run(Archiver().collect_garbage(timedelta(days=older_than), dry_run=dry_run))
    verb = "would be deleted" if dry_run else "deleted"
    text = f"{number(len(report.keys))} objects {verb}, {size(report.bytes)}"
    if report.replaced:
        text += f"; {number(report.replaced)} of them had been replaced"
    if report.kept:
        text += f"; {number(report.kept)} left alone: too young, or not this database's"
    answer(asdict(report), json, lambda: out.print(text))


@app.command()
def compact(
    target: str = typer.Option("128MB", "--target", help="What a file grows to, such as 128MB."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be merged."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Merge small files of a day into few, and adopt appended metrics; exit 1 if a day failed."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from atlas.archive import Archiver

    try:
        target_bytes = TypeAdapter(ByteSize).validate_python(target)
    except ValidationError:
        raise typer.BadParameter("give a size such as 128MB", param_hint="--target") from None
    with progress("compacting", quiet=json) as report_progress:
        report = run(
            Archiver().compact(target_bytes=target_bytes, dry_run=dry_run, progress=report_progress)
        )

    def show() -> None:
        if not report.days and not report.failed:
            out.print("nothing to compact")
        elif dry_run:
            out.print(
                f"{number(report.files_before)} files would be merged (days: {number(report.days)})"
            )
        else:
            out.print(
                f"{number(report.files_before)} files became {number(report.files_after)} "
                f"(days: {number(report.days)}): {size(report.bytes_before)} became "
                f"{size(report.bytes_after)}, {number(report.duplicates)} superseded rows dropped; "
                "`atlas vault gc` deletes the old ones after the grace period"
            )
        for line in report.failed:
            err.print(f"failed: {line}", soft_wrap=True)

    answer(asdict(report), json, show)
    if report.failed:
        raise typer.Exit(1)


@app.command()
def restore(
    since: str | None = spans.SINCE,
    until: str | None = spans.UNTIL,
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Bring cold samples back to PostgreSQL; they stay until `atlas vault release`."""
    from atlas.archive import Archiver

    first, last = spans.span_of(since, until)
    if first is None or last is None:
        raise InvalidInput("both ends are needed", field="since", hint="give --since and --until")
    with progress("restoring", quiet=json) as report_progress:
        report = run(Archiver().restore(first, last, progress=report_progress))
    text = (
        f"{number(report.rows)} samples are hot, {number(report.restored)} of them were missing; "
        f"pinned from {moment(report.pinned_from)} to {moment(report.pinned_until)} UTC"
    )
    answer(asdict(report), json, lambda: out.print(text))


@app.command()
def restore_schedule(
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Bring the part of the watchlist in the vault back to PostgreSQL, before a downgrade.

    Set WATCHLIST_VAULT_MONTHS to 0 first, or the janitor moves it out again.
    """
    from atlas.archive import Archiver

    question = "The database grows by 6.5 bytes for each video that lies in the vault. Go on?"
    confirm(question, yes=yes, as_json=json)
    with progress("restoring", quiet=json) as report_progress:
        videos = run(Archiver().restore_schedule(progress=report_progress))
    text = f"{number(videos)} videos are scheduled by PostgreSQL again; their files count no more"
    answer({"videos": videos}, json, lambda: out.print(text))


@app.command()
def release(
    since: str | None = spans.SINCE,
    until: str | None = spans.UNTIL,
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Let restored samples go again; corrected ones stay and are archived by the next run."""
    from atlas.archive import Archiver

    report = run(Archiver().release(*spans.span_of(since, until)))
    text = f"released (pins: {number(report.pins)}), {number(report.rows)} rows removed"
    if report.kept:
        text += f"; {number(report.kept)} had been corrected and stay"
    answer(asdict(report), json, lambda: out.print(text))


@app.command()
def forget(
    video_ids: list[str] = typer.Argument(..., help="Ids of the videos to erase."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only count what would be erased."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    json: bool = typer.Option(False, "--json", help="One JSON document for programs."),
) -> None:
    """Erase videos from both tiers for good, bar their ids, and print a receipt."""
    from atlas.archive import Archiver
    from atlas.utils import validate_youtube_id

    ids = list(dict.fromkeys(video_ids))
    # what looks like no id of a video is taken if something is known of it
    odd = [one for one in ids if not validate_youtube_id(one)]
    counts = run(_known_of(ids if dry_run else odd)) if dry_run or odd else {}
    for one in odd:
        if not any(counts[one].values()):
            raise InvalidInput(
                f"{one!r} is no YouTube video id, and nothing is known of it",
                field="video_id",
                value=one,
                hint="give ids of 11 characters of A-Z a-z 0-9 _ -",
            )
    if dry_run:
        return _show_known(counts, json)
    what = ids[0] if len(ids) == 1 else f"{len(ids)} videos"
    question = f"{what} will be erased everywhere. This cannot be undone. Go on?"
    confirm(question, yes=yes, as_json=json)
    with progress("erasing", quiet=json) as report_progress:
        receipt = run(Archiver().forget(video_ids, progress=report_progress))

    def show() -> None:
        hot = receipt.hot
        out.print(
            f"{number(len(receipt.video_ids))} videos erased: {number(hot.samples)} hot and "
            f"{number(receipt.cold_rows)} cold samples and videos, {number(hot.videos)} videos, "
            f"{number(hot.watchlist)} watchlist entries, {number(hot.events)} events, "
            f"{number(len(receipt.documents))} documents; {number(len(receipt.objects))} objects deleted"
        )
        rows = [
            (one.key, number(one.rows), one.fingerprint_before, one.fingerprint_after)
            for one in receipt.files
        ]
        if rows:
            columns = ("file", ">rows", "fingerprint before", "after")
            out.print(table("Rewritten without them", columns, rows))
        out.print("Outside of Atlas's reach:")
        for line in receipt.remains:
            out.print(f"- {line}", soft_wrap=True)

    answer(asdict(receipt), json, show)


for command in (objects.get, objects.cat, recovery.adopt, recovery.rebuild, recovery.move):
    app.command()(command)


async def _known_of(video_ids: list[str]) -> dict[str, dict[str, int]]:
    """Of each id: samples in both tiers, and rows of videos, watchlist and events."""
    from atlas.db import db
    from atlas.reader import StatsReader
    from atlas.repositories.erasure import ErasureReader
    from atlas.scheduling.undecided import until_decided
    from atlas.types import check_id
    from atlas.vault import get_vault

    ids = [check_id(one) for one in video_ids]
    rows: dict[str, dict[str, int]] = {}

    async def count(_: object, answers: Answers | None) -> Undecided:
        async with db.transaction(read_only=True) as session:
            found, undecided = await ErasureReader(session).counts(ids, answers)
        rows.update(found)
        return undecided

    if undecided := await until_decided(db, lambda: get_vault().store, count):
        raise VaultUnavailable(
            f"only files in the vault, which cannot be read, say whether {len(undecided)} of these videos "
            "are on the watchlist",
            hint="nothing was changed; run `atlas vault fsck`",
        )
    reader = StatsReader()
    return {one: {"samples": await reader.count([one]), **rows[one]} for one in ids}


def _show_known(counts: dict[str, dict[str, int]], json: bool) -> None:
    rows = [(one, *(number(count) for count in found.values())) for one, found in counts.items()]
    columns = ("id", ">samples", ">videos", ">watchlist", ">events")
    data = {
        "dry_run": True,
        "videos": [{"video_id": one, **found} for one, found in counts.items()],
    }
    answer(data, json, lambda: out.print(table("Would be erased", columns, rows)))


def _list_forgotten(json: bool) -> None:
    from atlas.db import db
    from atlas.repositories.erasure import ErasureReader

    async def work() -> list[tuple[str, datetime | None]]:
        async with db.transaction(read_only=True) as session:
            return await ErasureReader(session).barred()

    found = run(work())
    rows = [(one, moment(erased) or "not finished: run forget again") for one, erased in found]
    data = [{"video_id": one, "erased_at": erased} for one, erased in found]
    title = f"{number(len(found))} ids are barred"
    answer(data, json, lambda: out.print(table(title, ("id", "erased (UTC)"), rows)))
