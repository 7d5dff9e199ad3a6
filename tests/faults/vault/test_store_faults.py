"""Each way in which a store can fail, at each call that the archive makes: the next run puts it right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import VaultUnavailable, VerificationFailed
from atlas.ingest import record_samples
from atlas.types import ObjectInfo
from atlas.vault import LocalVault
from tests.faults.truth import in_files
from tests.support.children.archive_child import KILLED, RETENTION
from tests.support.faulty_store import APPLICABLE, KILLING, Fault, Faults, FaultyStore
from tests.support.samples import as_written, samples, visible
from tests.support.sql import scalar

CALLS = [
    pytest.param(method, fault, id=f"{method}-{fault}")
    for method in ("put_files", "compare_and_swap", "open", "get_bytes")
    for fault in APPLICABLE[method]
    # dying is for processes of their own; an epoch that was half-written is for a person
    if fault not in (*KILLING, Fault.SLOW)
]


def failing(vault: LocalVault, faults: Faults) -> LocalVault:
    """The same vault with an ill store."""
    ill = LocalVault(vault.store.root)
    ill.store = FaultyStore(ill.store, faults)
    return ill


@pytest.mark.parametrize(("method", "fault"), CALLS)
async def test_a_fault_of_the_store_is_put_right_by_the_next_run(
    method: str, fault: Fault, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    rows = samples(times=12)
    await record_samples(database, rows)
    ill = failing(vault, Faults(at={(method, 1): fault}))
    with contextlib.suppress(VaultUnavailable, VerificationFailed):
        await Archiver(database, ill).run(RETENTION)
    assert ill.store._calls[method] > 0
    assert await visible(database, vault) == as_written(rows)
    await Archiver(database, vault).run(RETENTION)
    assert await visible(database, vault) == as_written(rows)
    await Archiver(database, vault).collect_garbage(timedelta(0))
    unfinished = "SELECT count(*) FROM archive_files WHERE state NOT IN ('live', 'gone')"
    assert await scalar(database, unfinished) == 0
    assert await Archiver(database, vault).fsck(deep=True) == []
    assert in_files(tmp_path / "vault") == as_written(rows).keys()
    assert len(list(vault.store.list("video_stats"))) == 2


@pytest.mark.parametrize("fault", [Fault.HALF, Fault.FLIP, Fault.REFUSE])
async def test_a_store_that_always_fails_so_costs_nothing_but_time(
    fault: Fault, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    rows = samples(times=6)
    await record_samples(database, rows)
    always = {("put_files", number): fault for number in range(1, 9)}
    ill = Archiver(database, failing(vault, Faults(at=always)))
    for _ in range(3):
        with pytest.raises((VaultUnavailable, VerificationFailed)):
            await ill.run(RETENTION)
        assert await visible(database, vault) == as_written(rows)
    await Archiver(database, vault).run(RETENTION)
    assert await visible(database, vault) == as_written(rows)
    assert in_files(tmp_path / "vault") == as_written(rows).keys()


async def test_a_half_written_object_whose_removal_was_cut_short_is_removed_by_clean_up(
    start: Any, database: Database, tmp_path: Path
) -> None:
    """It has no footer, so that nothing but the ledger tells whose it is."""
    vault = LocalVault(tmp_path / "vault")
    await record_samples(database, samples(times=6))
    faults = Faults(at={("put_files", 1): Fault.HALF, ("delete", 1): Fault.KILL_BEFORE})
    assert await start(database, "archive", faults=faults).code() == KILLED
    await Archiver(database, vault).run(RETENTION)
    await Archiver(database, vault).collect_garbage(timedelta(0))
    assert len(list(vault.store.list("video_stats"))) == 1


async def test_a_swap_that_arrives_after_the_next_run_has_begun_needs_no_hand(
    database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    await record_samples(database, samples(times=6))
    swap = vault.store.compare_and_swap
    late: list[tuple[str, bytes | None, bytes]] = []

    class Slow(FaultyStore):
        """The first swap is told as failed, and arrives just before the second one."""

        def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
            if not late:
                late.append((key, expected, new))
                raise VaultUnavailable("timed out")
            swap(*late[0])
            return swap(key, expected, new)

    ill = LocalVault(tmp_path / "vault")
    ill.store = Slow(ill.store, Faults())
    with pytest.raises(VaultUnavailable):
        await Archiver(database, ill).run(RETENTION)
    assert (await Archiver(database, ill).run(RETENTION)).slices == 1
    assert (await Archiver(database, vault).run(RETENTION)).slices == 0


@pytest.mark.parametrize("seed", range(12))
async def test_an_appended_file_that_is_misread_is_not_taken_over_as_it_was_read(
    seed: int, database: Database, tmp_path: Path
) -> None:
    vault = LocalVault(tmp_path / "vault")
    rows = samples(videos=200, times=1)
    fields = ("video_id", "timestamp", "views", "likes", "comment_count")
    vault.append_metrics([{name: getattr(row, name) for name in fields} for row in rows])
    ill = failing(vault, Faults(seed=seed, at={("open", 1): Fault.MISREAD}))
    await Archiver(database, ill).compact()
    await Archiver(database, vault).collect_garbage(timedelta(0))
    assert await visible(database, vault) == as_written(rows)


async def test_a_reader_whose_listing_comes_after_an_erasure_misses_no_other_video(
    database: Database, tmp_path: Path
) -> None:
    """The erasure rewrites an appended file and deletes it at once, while the reader is about to list."""
    vault = LocalVault(tmp_path / "vault")
    rows = samples(videos=3, times=1)
    vault.append_metrics([{"video_id": row.video_id, "timestamp": row.timestamp} for row in rows])

    async def forget() -> None:
        other = Database(str(database._url))
        await Archiver(other, LocalVault(tmp_path / "vault")).forget([rows[0].video_id])
        await other.close()

    class Overtaken(FaultyStore):
        """Whoever lists is overtaken."""

        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            asyncio.run(forget())
            return super().list(prefix)

    ill = LocalVault(tmp_path / "vault")
    ill.store = Overtaken(ill.store, Faults())
    assert {key[0] for key in await visible(database, ill)} == {row.video_id for row in rows[1:]}
