"""On the Hub a run is one commit, whatever it moves, and a kill around it costs nothing but time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.reader import ColdReader
from atlas.vault.stores.huggingface import HuggingFaceStore
from tests.support.children.archive_child import KILLED, RETENTION
from tests.support.impatience import no_pauses
from tests.support.places import Place
from tests.support.samples import as_written, samples, shown_by, visible
from tests.support.servers import hub_server
from tests.support.servers.hub_server import Hub
from tests.support.sql import scalar

#: Two days of four slices each.
ROWS = samples(times=48)

# the Hub's client itself passes ``data=`` to its HTTP library, which wants ``content=``
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server.running() as hub, no_pauses():
        yield hub


@pytest.fixture
def place(hub: Hub, tmp_path: Path) -> Place:
    return Place("huggingface", hub.url, tmp_path / "home", "run")


def commits(hub: Hub) -> list[str]:
    """What was written to tables, a title a commit; the archiver's own objects are no tables."""
    titles = []
    for before, after in pairwise(hub.history):
        changed = {path for path, _ in before.files.items() ^ after.files.items()}
        if any(path.endswith(".parquet") for path in changed):
            titles.append(after.title)
    return titles


async def test_the_slices_of_a_run_go_in_one_commit(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    await record_samples(database, ROWS)
    report = await Archiver(database, vault).run(RETENTION)
    assert (report.slices, commits(hub)) == (8, ["Add 8 files"])
    assert await visible(database, vault) == as_written(ROWS)


async def test_the_manifest_is_a_commit_of_its_own_only_where_a_file_came_or_went(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    archiver = Archiver(database, vault)
    await record_samples(database, ROWS)
    await archiver.run(RETENTION)
    await archiver.run(RETENTION)
    manifests = [one.title for one in hub.history if "manifests" in one.title]
    assert len(manifests) == 1
    # the second run moved the epoch: files are listed, and none is missed or shown twice
    reader = ColdReader(vault)
    assert await shown_by(reader) == as_written(ROWS)
    await archiver.forget(["video-0003"])
    rows = [row for row in ROWS if row.video_id != "video-0003"]
    assert await shown_by(reader) == as_written(rows)
    assert await reader.count() == len(rows)


async def test_a_batch_is_cut_where_the_rows_asked_for_are_reached(
    database: Database, place: Place, hub: Hub
) -> None:
    archiver = Archiver(database, place.vault())
    await record_samples(database, ROWS)
    # a slice has 120
    assert (await archiver.run(RETENTION, max_rows=241)).slices == 3
    assert (await archiver.run(RETENTION)).slices == 5
    assert commits(hub) == ["Add 3 files", "Add 5 files"]


async def test_more_slices_than_the_hub_takes_in_a_commit_go_in_several(
    database: Database, place: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HuggingFaceStore, "batch", 3)
    vault = place.vault()
    await record_samples(database, ROWS)
    assert (await Archiver(database, vault).run(RETENTION)).slices == 8
    assert sorted(commits(hub)) == ["Add 2 files", "Add 3 files", "Add 3 files"]
    assert await visible(database, vault) == as_written(ROWS)


@pytest.mark.parametrize(
    "step",
    [("archive_exported", 5), ("archive_stored", 3), ("archive_written", 3), ("archive_live", 3)],
    ids=lambda step: f"{step[0]}-{step[1]}",
)
async def test_a_kill_in_the_middle_of_a_batch_is_made_good_without_a_second_commit(
    database: Database, place: Place, hub: Hub, start: Any, step: tuple[str, int]
) -> None:
    vault = place.vault()
    await record_samples(database, ROWS)
    assert await start(database, "archive", kill_at=step, place=place).code() == KILLED
    assert await visible(database, vault) == as_written(ROWS)
    await Archiver(database, vault).run(RETENTION)
    assert commits(hub) == ["Add 8 files"]
    assert await visible(database, vault) == as_written(ROWS)
    assert await scalar(database, "SELECT count(*) FROM archive_files WHERE state = 'live'") == 8
    assert len([*vault.store.list("video_stats")]) == 8


async def test_a_lost_answer_to_the_commit_of_a_batch_makes_no_second_one(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    await record_samples(database, ROWS)
    hub.before["commit"].extend([lambda: None, lambda: hub.faults["commit"].append(hub.lost)])
    report = await Archiver(database, vault).run(RETENTION)
    assert (report.slices, commits(hub)) == (8, ["Add 8 files"])


async def test_a_file_of_a_batch_that_came_out_damaged_is_replaced_alone(
    database: Database, place: Place, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = place.vault()
    await record_samples(database, ROWS)
    written = Steps.written

    async def damaged(steps: Steps, *facts: Any) -> None:
        if "Damage" not in commits(hub):
            path = min(path for path in hub.files if path.endswith(".parquet"))
            hub.commit({**hub.files, path: hub.files[path][:-1]}, "Damage")
        await written(steps, *facts)

    monkeypatch.setattr(Steps, "written", damaged)
    report = await Archiver(database, vault).run(RETENTION)
    assert report.slices == 8
    assert commits(hub) == ["Add 8 files", "Damage", "Delete 2 files", "Add 1 files"]
    assert await visible(database, vault) == as_written(ROWS)


async def test_days_that_are_compacted_go_in_one_commit(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    archiver = Archiver(database, vault)
    await record_samples(database, ROWS)
    await archiver.run(RETENTION)
    report = await archiver.compact()
    assert (report.days, report.files_before, report.files_after) == (2, 8, 2)
    # of each day the file, and the record of what it replaces
    assert commits(hub) == ["Add 8 files", "Add 4 files"]
    assert await visible(database, vault) == as_written(ROWS)


async def test_a_day_that_cannot_be_compacted_leaves_the_others_of_its_batch(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    archiver = Archiver(database, vault)
    await record_samples(database, ROWS)
    await archiver.run(RETENTION)
    bad = min(path for path in hub.files if path.endswith(".parquet"))
    hub.commit({**hub.files, bad: b"PAR1"})
    report = await archiver.compact()
    assert (report.days, report.files_before, report.files_after) == (1, 4, 1)
    assert [bad.removeprefix("run/") in told for told in report.failed] == [True]


async def test_the_files_that_hold_a_forgotten_video_are_replaced_in_one_commit(
    database: Database, place: Place, hub: Hub
) -> None:
    vault = place.vault()
    archiver = Archiver(database, vault)
    await record_samples(database, ROWS)
    await archiver.run(RETENTION)
    before = len(hub.history)
    receipt = await archiver.forget(["video-0003"])
    assert len(receipt.files) == 8
    # with each file the record of what it replaces; the announcement of a deletion goes with it
    assert commits(hub) == ["Add 8 files", "Add 16 files", "Delete 9 files"]
    # besides: the epoch, what is forgotten, the announcement, the manifest before and after the deletion
    assert len(hub.history) - before == 7
    rows = [row for row in ROWS if row.video_id != "video-0003"]
    assert await visible(database, vault) == as_written(rows)
