"""A vault goes elsewhere, and a database that looks for it in the old place is told so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.db import Database
from atlas.errors import WrongVault
from atlas.repositories.ledger.control import ControlWriter
from atlas.vault import LocalVault
from tests.support.histories import WEEK, History, in_order
from tests.support.samples import OLD


@pytest.mark.parametrize("step", ["_open", "move_to", "_close", "nothing"])
async def test_a_vault_is_moved_whatever_stops_it_on_the_way(
    history: History, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    import atlas.archive.recovery.moving as moving

    history.vault.store_transcript("dQw4w9WgXcQ", {"text": "..."})
    await history.write("A", 1)
    await history.archive("B", 2)
    await history.archiver.forget(["B"])
    history.append("C", 3)
    backup = await history.backup()
    target = LocalVault(tmp_path / "elsewhere", home=tmp_path / "home")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    if step != "nothing":
        owner: Any = ControlWriter if step == "move_to" else moving
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, step, die)
            await history.archiver.move(target)
    report = await history.archiver.move(target)
    assert report.was_moved == (step == "_close")
    old, history.vault = history.vault, target
    assert await history.seen() == {"A@1": 1, "C@1": 3}
    await history.archiver.run(WEEK)
    assert target.fetch_transcript("dQw4w9WgXcQ") == {"text": "..."}
    # what another machine delivers to the old place
    old.append_metrics([{"video_id": "D", "timestamp": OLD, "views": 4}])
    await Archiver(history.database, old).move(target)
    await in_order(history, {"A@1": 1, "C@1": 3, "D@0": 4})
    # an older copy of the database is told where it went, and may adopt there
    await history.put_back(backup)
    with pytest.raises(WrongVault, match=r"moved to .*elsewhere"):
        await Archiver(history.database, old).run(WEEK)
    with pytest.raises(WrongVault, match="atlas vault adopt"):
        await history.archiver.run(WEEK)
    await history.archiver.adopt()
    await in_order(history, {"A@1": 1, "C@1": 3, "D@0": 4})


async def test_a_vault_is_not_moved_to_another_databases_place(
    history: History, tmp_path: Path
) -> None:
    target = LocalVault(tmp_path / "elsewhere", home=tmp_path / "home")
    await history.archive("A", 1)
    other = Database(await asyncio.to_thread(history.create, history.template))
    await Archiver(other, target).run(WEEK)
    await other.close()
    before = [info.key for info in target.store.list("")]
    with pytest.raises(WrongVault, match="another database"):
        await history.archiver.move(target)
    assert [info.key for info in target.store.list("")] == before
    await in_order(history, {"A@1": 1})
