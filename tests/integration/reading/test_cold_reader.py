"""Reading the vault alone: what the ledger calls live, each sample once, whatever state a job left."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.archive.publishing import Publisher
from atlas.db import Database
from atlas.errors import CorruptObject, LeaseLost, VaultError, VaultUnavailable, WrongVault
from atlas.ingest import record_samples
from atlas.reader import ColdReader, StatsReader
from atlas.reading.catalogue import CatalogueReader
from atlas.reading.footers import footers
from atlas.reading.manifest import Manifest
from atlas.repositories.ledger.files import LedgerReader
from atlas.types import ObjectInfo, Sample
from atlas.vault import LocalVault, MemoryVault, Vault
from tests.support import format_1
from tests.support.samples import OLD, Counters, Key, as_written, samples, shown_by, visible
from tests.support.stores import CountedStore

WEEK = timedelta(days=7)
#: A day and a half: six slices.
ROWS = samples(times=36)
CORRECTION = Sample("video-0003", OLD + timedelta(minutes=1), views=5)


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault")


@pytest.fixture
async def archiver(database: Database, vault: LocalVault) -> Archiver:
    """Two days of slices in the vault."""
    await record_samples(database, ROWS)
    archiver = Archiver(database, vault)
    await archiver.run(WEEK)
    return archiver


def manifest_path(vault: Vault) -> Path:
    folder = Path(vault.store.uri("_atlas").removeprefix("file://"))
    (owner,) = (path.stem for path in (folder / "epochs").iterdir())
    return folder / f"manifests/{owner}.json"


async def check(vault: Vault, expected: dict[Key, Counters]) -> None:
    """A fresh reader and a reader without manifest show and count just these."""
    footers.clear()
    reader = ColdReader(vault)
    assert await shown_by(reader) == expected
    assert await reader.count() == len(expected)


def stale(path: Path) -> None:
    """As if the last job had not come to publish, nor the one before."""
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"epoch": said["epoch"] - 1}))


@pytest.mark.parametrize("spoil", [None, lambda path: path.unlink(missing_ok=True), stale])
async def test_it_shows_what_the_ledger_calls_live_with_or_without_a_manifest(
    database: Database,
    vault: LocalVault,
    archiver: Archiver,
    spoil: Callable[[Path], object] | None,
) -> None:
    expected = as_written(ROWS)

    async def agree() -> None:
        if spoil is not None:
            spoil(manifest_path(vault))
        await check(vault, expected)
        assert expected == await visible(database, vault)

    await agree()
    await record_samples(database, [CORRECTION])
    assert await ColdReader(vault).count() == len(expected)  # it is hot
    await archiver.run(WEEK)
    expected[CORRECTION.video_id, CORRECTION.timestamp] = (5, None, None)
    await agree()
    appended = {"video_id": "appended", "timestamp": OLD, "views": 3}
    vault.append_metrics([appended, appended | {"video_id": "video-0003", "views": 4}])
    expected["appended", OLD] = (3, None, None)
    expected["video-0003", OLD] = (4, None, None)
    await agree()
    await archiver.compact()
    await agree()  # replaced and adopted files still lie there
    if spoil is None:  # and are not read twice
        assert CatalogueReader(vault.store, vault.as_seen_here()).look().appended == ()
    await archiver.forget(["video-0007"])
    for key in [key for key in expected if key[0] == "video-0007"]:
        del expected[key]
    await agree()
    await archiver.collect_garbage(timedelta(0))
    await agree()


async def test_history_and_scan_choose_as_those_of_both_tiers_do(
    database: Database, vault: LocalVault, archiver: Archiver
) -> None:
    cold, both = ColdReader(vault), StatsReader(database, vault)
    since, until = OLD.isoformat(), (OLD + timedelta(days=1)).date()
    assert (await cold.history("video-0003", since, until)).equals(
        await both.history("video-0003", OLD, OLD + timedelta(days=1))
    )
    chosen = {"video_ids": ["video-0001", "video-0002"], "since": OLD + timedelta(hours=20)}
    assert await shown_by(cold, **chosen) == await shown_by(both, **chosen)
    assert await cold.count(**chosen) == await both.count(**chosen) == 32
    assert (await cold.history("nobody")).num_rows == 0


async def test_a_settled_manifest_spares_every_listing_of_the_files_and_every_footer(
    vault: LocalVault, archiver: Archiver
) -> None:
    store = CountedStore(vault.store)
    reader = ColdReader(Vault(store, vault._home))  # type: ignore[arg-type]  # passes all on
    footers.clear()
    assert await reader.count() == len(ROWS)
    assert not [key for key in store.counts.keys if key.endswith(".parquet")]
    # the epochs, to see whose it is; forgotten ids; metrics
    assert store.counts.lists == 3
    history = await reader.history("video-0003", OLD, OLD + timedelta(hours=6))
    assert history.num_rows == 6
    # only the file that can hold them
    assert len([key for key in store.counts.keys if key.endswith(".parquet")]) == 1


@pytest.mark.parametrize("by_time", [True, False])
async def test_a_scan_goes_on_with_what_took_the_place_of_its_files(
    vault: LocalVault, archiver: Archiver, by_time: bool
) -> None:
    shown: list[tuple[Any, ...]] = []
    reader = ColdReader(vault)
    async for batch in reader.scan(ordered_by_time=by_time):
        shown += [(row["timestamp"], row["video_id"]) for row in batch.to_pylist()]
        if len(shown) == 120:  # the first slice; two more may have been read ahead
            footers.clear()
            await archiver.compact()
            await archiver.collect_garbage(timedelta(0))
        elif len(shown) == 480:
            await archiver.forget(["video-0019"])
    last = {key for key in shown if key[1] == "video-0019"}
    assert len(shown) == len(set(shown))
    assert set(shown) - last == {(r.timestamp, r.video_id) for r in ROWS if r.video_id[-2:] != "19"}
    assert not by_time or shown == sorted(shown)


async def test_a_file_that_somebody_deleted_is_told_and_not_left_out(
    vault: LocalVault, archiver: Archiver
) -> None:
    key = next(vault.store.list("video_stats")).key
    vault.store.delete([key])
    footers.clear()
    for spoil in (lambda path: None, stale):
        spoil(manifest_path(vault))
        with pytest.raises(VaultError, match=key):
            await shown_by(ColdReader(vault))
        with pytest.raises(VaultError, match=key):
            await ColdReader(vault).count(["video-0001"])


async def test_what_may_be_a_damaged_file_is_told_where_nothing_says_that_it_does_not_count(
    vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    junk = tmp_path / "vault/video_stats/junk.parquet"
    junk.write_bytes(b"half of a file")
    await check(vault, as_written(ROWS))
    manifest_path(vault).write_text("{")
    with pytest.raises(CorruptObject, match="junk"):
        await ColdReader(vault).count()


async def test_files_set_aside_do_not_count_under_a_manifest_of_before(
    vault: LocalVault, archiver: Archiver
) -> None:
    path = manifest_path(vault)
    said = json.loads(path.read_text())
    gone = said["files"].pop()
    said |= {"aside": [gone["key"]], "settled": False}
    path.write_text(json.dumps(said))
    assert await ColdReader(vault).count() == len(ROWS) - gone["rows"]
    # published in the middle of a job: what came since is found beside it
    path.write_text(json.dumps(said | {"aside": []}))
    assert await ColdReader(vault).count() == len(ROWS)


async def test_rows_of_a_forgotten_video_that_come_late_are_not_shown(
    vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    await archiver.forget(["video-0001"])
    assert b"video-0001" not in manifest_path(vault).read_bytes()
    elsewhere = LocalVault(tmp_path / "vault", home=tmp_path / "another home")
    rows = [{"video_id": f"video-000{n}", "timestamp": OLD, "views": 1} for n in (1, 2)]
    elsewhere.append_metrics(rows)
    reader = ColdReader(vault)
    assert (await reader.history("video-0001")).num_rows == 0
    assert (await reader.history("video-0002", until=OLD + timedelta(seconds=1))).num_rows == 2
    assert await reader.count(["video-0001", "video-0002"]) == 37


async def test_a_manifest_that_cannot_be_written_fails_no_run_and_the_next_one_mends_it(
    database: Database,
    vault: LocalVault,
    archiver: Archiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    swap = vault.store.compare_and_swap

    def refused(key: str, expected: bytes | None, new: bytes) -> bool:
        if "manifests" in key:
            raise VaultUnavailable("no answer", path=key)
        return swap(key, expected, new)

    monkeypatch.setattr(vault.store, "compare_and_swap", refused)
    before = manifest_path(vault).read_bytes()
    await record_samples(database, [CORRECTION])
    assert (await archiver.run(WEEK)).files == 1
    assert manifest_path(vault).read_bytes() == before
    assert "manifest_not_published" in caplog.text
    expected = as_written(ROWS) | {(CORRECTION.video_id, CORRECTION.timestamp): (5, None, None)}
    await check(vault, expected)
    # but nothing is deleted that it names
    with pytest.raises(VaultUnavailable):
        await archiver.forget(["video-0001"])
    assert len(list(vault.store.list("video_stats"))) > len(json.loads(before)["files"])
    monkeypatch.undo()
    await archiver.run(WEEK)
    named = {file["key"] for file in json.loads(manifest_path(vault).read_bytes())["files"]}
    assert named == {info.key for info in vault.store.list("video_stats")}


async def test_an_archiver_that_was_overtaken_publishes_nothing(
    database: Database, vault: LocalVault, archiver: Archiver, caplog: pytest.LogCaptureFixture
) -> None:
    async with database.transaction(read_only=True) as session:
        control = await LedgerReader(session).control()
    late = Publisher(database, vault.store, control, control.fence)
    await archiver.run(WEEK)
    before = manifest_path(vault).read_bytes()
    await late.publish_at_end()
    assert manifest_path(vault).read_bytes() == before
    assert "LeaseLost" in caplog.text
    key = json.loads(before)["files"][0]["key"]
    with pytest.raises(LeaseLost):
        await late.publish_before_deletion([key])


async def test_an_archiver_that_is_overtaken_while_it_publishes_replaces_nothing(
    database: Database, vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.transaction(read_only=True) as session:
        control = await LedgerReader(session).control()
    late = Publisher(database, vault.store, control, control.fence)
    read = Publisher._manifest

    async def overtaken(publisher: Publisher, *, settled: bool) -> Manifest:
        found = await read(publisher, settled=settled)
        if publisher is late:
            await archiver.run(WEEK)
        return found

    monkeypatch.setattr(Publisher, "_manifest", overtaken)
    await late.publish_at_end()
    said = json.loads(manifest_path(vault).read_text())
    assert said["epoch"] == control.epoch + 1


async def test_a_file_that_is_replaced_while_the_vault_is_listed_is_not_missed(
    vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replacement lies on a page that was read before, itself on one that is read after."""
    manifest_path(vault).unlink()
    listed, listings = vault.store.list, 0

    def listing(prefix: str) -> Iterator[ObjectInfo]:
        nonlocal listings
        there = list(listed(prefix))
        listings += prefix == "video_stats"
        if listings == 2 and prefix == "video_stats":
            old = there.pop()
            content = vault.store.get_bytes(old.key)
            assert content is not None
            vault.store.put_bytes(old.key.replace(".parquet", "-again.parquet"), content)
            vault.store.delete([old.key])
        yield from there

    monkeypatch.setattr(vault.store, "list", listing)
    assert await shown_by(ColdReader(vault)) == as_written(ROWS)
    assert listings == 4


async def test_a_look_during_which_a_job_begins_is_repeated(
    vault: LocalVault, archiver: Archiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appended file is adopted and gone between the look at the manifest and the listing of metrics."""
    rows = [{"video_id": one, "timestamp": OLD, "views": 3} for one in ("appended", "kept")]
    vault.append_metrics(rows)
    await archiver.run(WEEK)
    reader = ColdReader(vault)
    listed, moved = vault.store.list, False

    def listing(prefix: str) -> Any:
        nonlocal moved
        if prefix == "metrics" and not moved:
            moved = True
            thread = threading.Thread(target=lambda: asyncio.run(archiver.forget(["appended"])))
            thread.start()
            thread.join()
        return listed(prefix)

    monkeypatch.setattr(vault.store, "list", listing)
    assert await shown_by(reader) == as_written(ROWS) | {("kept", OLD): (3, None, None)}
    assert moved


async def test_a_vault_that_was_moved_or_is_of_two_databases_is_refused(
    vault: LocalVault, archiver: Archiver, tmp_path: Path
) -> None:
    new = LocalVault(tmp_path / "elsewhere")
    await archiver.move(new)
    await check(new, as_written(ROWS))
    assert json.loads(manifest_path(new).read_text())["settled"]
    with pytest.raises(WrongVault, match="elsewhere"):
        await ColdReader(vault).count()
    epoch = next(new.store.list("_atlas/epochs"))
    raw = new.store.get_bytes(epoch.key)
    assert raw is not None
    new.store.put_bytes(f"_atlas/epochs/{uuid.uuid4()}.json", raw)
    with pytest.raises(WrongVault, match="2 databases"):
        await ColdReader(new).count()


async def test_vaults_of_before_are_read_by_their_footers(tmp_path: Path) -> None:
    await check(format_1.copied(tmp_path / "old"), format_1.expected())


async def test_an_empty_vault_holds_nothing_but_what_is_appended() -> None:
    vault = MemoryVault()
    assert await ColdReader(vault).count() == 0
    vault.append_metrics([{"video_id": "a", "timestamp": OLD, "views": 1}])
    assert await shown_by(ColdReader(vault)) == {("a", OLD): (1, None, None)}
