"""A job that died in the middle is finished by the next one, with nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.archive.session import Steps
from atlas.errors import Conflict, EpochBehind
from tests.support.histories import WEEK, History, in_order


async def test_a_rebuild_that_died_is_finished_by_another(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R10."""
    import atlas.archive.recovery.adoption as adoption

    await history.archive("A", 1)
    for step in ("swap_for_adoption", "take_in", "record_adoption"):
        await history.lose()

        async def die(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(adoption, step, die)
            await history.archiver.rebuild()
        await history.archiver.rebuild()
        await in_order(history, {"A@1": 1})
    with pytest.raises(Conflict, match="adopt"):
        await history.archiver.rebuild()


async def test_an_adoption_that_died_is_finished_by_another(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    import atlas.archive.recovery.taking as taking

    await history.archive("keep", 0, hour=48)
    await history.write("A", 1)
    await history.write("B", 1, hour=24)
    backup = await history.backup()
    await history.write("A", 2)
    await history.write("B", 2, hour=24)
    await history.archiver.run(WEEK)
    # what is left then is a merged file: its number is higher than those of the slices that it holds
    await history.archive("C", 3)
    await history.archiver.compact()
    await history.clean()
    assert len(history.files()) == 3
    await history.put_back(backup)
    real, calls = taking._take, list[int]()

    async def take(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        await real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(taking, "_take", take)
        await history.archiver.adopt()
    with pytest.raises(EpochBehind):
        await history.archiver.run(WEEK)
    report = await history.archiver.adopt()
    assert (report.files, report.stale_rows) == (1, 1)
    await in_order(history, {"keep@48": 0, "A@1": 2, "B@24": 2, "C@1": 3})


async def test_a_compaction_that_died_is_rolled_forward(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.archive("A", 1)
    await history.archive("B", 2)
    import atlas.archive.maintenance.rewrite as rewrite

    async def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rewrite, "_swap", die)
        await history.archiver.compact()
    await history.archiver.run(WEEK)
    states = "SELECT string_agg(state, ',' ORDER BY seq) FROM archive_files"
    assert await history.sql(states) == "retired,retired,live"
    await in_order(history, {"A@1": 1, "B@1": 2})


async def test_a_batch_with_an_output_missing_replaces_nothing(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    await history.archive("A", 1)
    await history.archive("B", 2)
    real = Steps.put

    async def put(self: Steps, new: Any, records: Any = ()) -> None:
        await real(self, new, records)
        self.store.delete([new[0][0].object_key])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "put", put)
        await history.archiver.compact()
    await history.archiver.run(WEEK)
    states = "SELECT string_agg(state, ',' ORDER BY seq) FROM archive_files"
    assert await history.sql(states) == "live,live,gone"
    await in_order(history, {"A@1": 1, "B@1": 2})
