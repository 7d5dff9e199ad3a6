"""``atlas vault adopt``, ``rebuild`` and ``move``: a database and its vault come together again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from atlas.cli.output import answer, confirm, err, number, out, progress, run, size, table

if TYPE_CHECKING:
    from atlas.archive import AdoptReport

_OWNER = typer.Option(None, "--owner", help="Whose files, where several databases share the vault.")
_JSON = typer.Option(False, "--json", help="One JSON document for programs.")
_YES = typer.Option(False, "--yes", help="Do not ask.")


def adopt(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only show what would be done."),
    yes: bool = _YES,
    set_aside: bool = typer.Option(
        False,
        "--set-aside",
        help="What was archived after this database's last run was a copy's: it does not count.",
    ),
    owner: str | None = _OWNER,
    json: bool = _JSON,
) -> None:
    """Take in what the vault holds after a restore, a promotion, a copy or a loss; before collectors start.

    Every other copy of this database is refused from then on. Shows first what it will do.
    """
    from atlas.archive import Archiver

    mark = _uuid(owner)
    if dry_run or not (yes and json):
        foreseen = run(Archiver().adopt(dry_run=True, owner=mark, set_aside=set_aside))
        if dry_run:
            answer(asdict(foreseen), json, lambda: _show(foreseen))
            return
        if not json:
            _show(foreseen)
    question = "Any other copy of this database will be refused from now on. Go on?"
    confirm(question, yes=yes, as_json=json)
    with progress("taking in", quiet=json) as report_progress:
        report = run(Archiver().adopt(owner=mark, set_aside=set_aside, progress=report_progress))
    answer(asdict(report), json, lambda: _show(report))


def _show(report: AdoptReport) -> None:
    """What an adoption does, or did."""
    other = "nobody has archived into this vault" if report.other is None else str(report.other)
    rows: list[tuple[str, str]] = [
        ("the vault's other side", other),
        ("epoch of this database then", number(report.epoch)),
        (
            "files to take in",
            f"{number(report.files)} with {number(report.rows)} rows, {size(report.bytes)}",
        ),
        ("of these, rows of slices that only exist there", number(report.only_there)),
        ("ledger rows whose file was replaced", number(len(report.replaced))),
        ("ledger rows whose file is missing", number(len(report.missing))),
        ("ids to forget", number(report.forgotten)),
        ("videos not to be collected again", number(report.collected)),
        ("slices of a copy, set aside", number(report.aside)),
    ]
    if not report.dry_run:
        rows.append(
            ("hot rows older than the vault's, kept in stale_samples", number(report.stale_rows))
        )
    title = "What adopting will do" if report.dry_run else "Adopted"
    out.print(table(title, ("what", "how many"), rows))
    for key in report.missing:
        err.print(f"missing: {key}", soft_wrap=True)
    for line in report.skipped:
        err.print(f"skipped: {line}", soft_wrap=True)


def rebuild(owner: str | None = _OWNER, json: bool = _JSON) -> None:
    """Write the ledger of a database that never archived anew from the files in the vault."""
    from atlas.archive import Archiver

    with progress("reading", quiet=json) as report_progress:
        report = run(Archiver().rebuild(_uuid(owner), progress=report_progress))

    def show() -> None:
        out.print(
            f"{number(report.files)} files with {number(report.rows)} rows, "
            f"{size(report.bytes)}, are in the ledger; epoch {report.epoch}"
        )
        if report.stale_rows:
            out.print(
                f"{number(report.stale_rows)} hot rows, older than the vault's, are kept in stale_samples"
            )
        for line in report.skipped:
            err.print(f"skipped: {line}", soft_wrap=True)

    answer(asdict(report), json, show)


def move(
    to: str = typer.Option(
        ...,
        "--to",
        help="A VAULT_PREFIX, or hf://datasets/REPO/PREFIX, gs://BUCKET/PREFIX, file:///FOLDER.",
    ),
    yes: bool = _YES,
    json: bool = _JSON,
) -> None:
    """Copy this database's vault to another prefix or place and go on there; nothing is deleted."""
    from atlas.archive import Archiver
    from atlas.vault.providers import vault_at

    target = vault_at(to)
    question = (
        f"Everything will be copied to {target.identity}, and this database goes on there. Go on?"
    )
    confirm(question, yes=yes, as_json=json)
    with progress("copying", quiet=json) as report_progress:
        report = run(Archiver().move(target, progress=report_progress))

    def show() -> None:
        out.print(
            f"{number(report.objects)} objects copied, {size(report.bytes)}; "
            f"{number(report.already)} were there; the vault is {report.target} now"
        )
        out.print(
            "set the VAULT_* settings to it wherever Atlas runs. What other machines deliver to the "
            "old place until then is copied by the same command again; delete the old place by hand",
            soft_wrap=True,
        )

    answer(asdict(report), json, show)


def _uuid(owner: str | None) -> UUID | None:
    try:
        return None if owner is None else UUID(owner)
    except ValueError:
        raise typer.BadParameter("give the owner's UUID", param_hint="--owner") from None
