"""Each way in which a store can fail, at each call that the archive makes: the next run puts it right."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import VaultUnavailable, VerificationFailed
from atlas.ingest import record_samples
from atlas.vault import LocalVault
from tests.faults.truth import in_files
from tests.support.archive_child import RETENTION
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
    ill = LocalVault(vault.store.root)  # type: ignore[attr-defined]  # a LocalStore
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
    assert ill.store._calls[method] > 0  # type: ignore[attr-defined]  # a FaultyStore
    assert await visible(database, vault) == as_written(rows)
    await Archiver(database, vault).run(RETENTION)
    assert await visible(database, vault) == as_written(rows)
    assert (
        await scalar(
            database, "SELECT count(*) FROM archive_files WHERE state NOT IN ('live', 'gone')"
        )
        == 0
    )
    await Archiver(database, vault).collect_garbage(timedelta(0))
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
