"""Two databases and one vault: copies, new databases and strangers take nothing from each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from atlas.archive import Archiver
from atlas.archive.session import Steps
from atlas.db import Database
from atlas.errors import EpochBehind, WrongVault
from tests.support.histories import WEEK, History, in_order


async def test_a_second_database_is_refused_before_it_writes_anything(history: History) -> None:
    """R7."""
    history.append("A", 1)
    await history.archive("keep", 0)
    first, url = history.database, history.current
    before = history.files("")
    await history.lose()
    await history.write("other", 1)
    for job in (
        lambda: history.archiver.run(WEEK),
        lambda: history.archiver.compact(),
        lambda: history.archiver.forget(["other"]),
    ):
        with pytest.raises(WrongVault) as error:
            await job()
        assert "VAULT_PREFIX" in str(error.value.hint)
        assert "atlas vault adopt" in str(error.value.hint)
    assert history.files("") == before
    assert await history.sql("SELECT owner IS NULL AND vault IS NULL FROM archive_control")
    assert await history.sql("SELECT count(*) FROM archive_files") == 0
    await first.close()
    history.database, history.current = Database(url), url
    await in_order(history, {"keep@1": 0, "A@1": 1})


async def test_of_two_new_databases_that_begin_at_once_one_gets_the_vault(
    history: History,
) -> None:
    await history.write("A", 1)
    other = Database(await asyncio.to_thread(history.create, history.template))
    results = await asyncio.gather(
        history.archiver.run(WEEK), Archiver(other, history.vault).run(WEEK), return_exceptions=True
    )
    await other.close()
    assert sum(isinstance(one, WrongVault) for one in results) == 1, results


async def test_a_clone_that_adopts_during_a_clean_up_keeps_its_samples(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    await history.archiver.compact()
    await history.age()
    clone = Database(clone_url)
    store, loop = history.vault.store, asyncio.get_running_loop()
    real, adopted = type(store).delete, list[object]()

    def delete(self: Any, keys: Any) -> None:
        keys = list(keys)
        if not adopted and any(key.startswith("video_stats") for key in keys):
            adopting = Archiver(clone, history.vault).adopt()
            adopted.append(asyncio.run_coroutine_threadsafe(adopting, loop).result())
        real(self, keys)

    monkeypatch.setattr(type(store), "delete", delete)
    report = await history.archiver.collect_garbage()
    assert len(report.keys) == 2 and adopted
    with pytest.raises(EpochBehind):
        await history.archiver.run(WEEK)
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    assert await Archiver(clone, history.vault).fsck() == []
    await clone.close()


async def test_a_deletion_is_refused_once_a_clone_has_adopted(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12, the other order: what is about to be deleted is announced, and then the epoch is looked at."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    await history.archiver.compact()
    await history.age()
    clone = Database(clone_url)
    real = Steps.delete_files

    async def delete_files(self: Steps, *args: Any) -> None:
        await Archiver(clone, history.vault).adopt()
        await real(self, *args)

    monkeypatch.setattr(Steps, "delete_files", delete_files)
    before = history.files()
    with pytest.raises(EpochBehind):
        await history.archiver.collect_garbage()
    assert history.files() == before
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    await clone.close()


async def test_what_is_condemned_is_taken_for_absent(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An output that was given up arrives late; a clone adopts while the clean-up is frozen."""
    await history.archive("A", 1)
    await history.archive("B", 2)
    clone_url = await history.backup()
    real_put, late = Steps.put, list[Any]()

    async def put(self: Steps, new: Any, records: Any = ()) -> None:
        await real_put(self, new, records)
        for file, _ in new:
            late.append((file.object_key, history.vault.store.get_bytes(file.object_key)))
        history.vault.store.delete([key for key, _ in late])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Steps, "put", put)
        await history.archiver.compact()
    await history.archiver.run(WEEK)  # gives it up
    history.vault.store.put_bytes(*late[0])
    await history.age()
    frozen, go_on = asyncio.Event(), asyncio.Event()
    store, loop, real = (
        history.vault.store,
        asyncio.get_running_loop(),
        type(history.vault.store).delete,
    )

    def delete(self: Any, keys: Any) -> None:
        for key in keys:  # in their order: what says that they are condemned goes last
            if key == late[0][0]:
                loop.call_soon_threadsafe(frozen.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            real(self, [key])

    monkeypatch.setattr(type(store), "delete", delete)
    cleaning = asyncio.create_task(history.archiver.collect_garbage())
    await frozen.wait()
    clone = Database(clone_url)
    await Archiver(clone, history.vault).adopt()
    go_on.set()
    assert (await cleaning).keys == (late[0][0],)
    assert await history.seen(clone) == {"A@1": 1, "B@1": 2}
    assert await Archiver(clone, history.vault).fsck() == []
    await clone.close()


async def test_what_a_copy_archived_can_be_set_aside(history: History) -> None:
    """R13: a staging copy ran first; the original is told who it was, and what counts is its own."""
    await history.archive("A", 1)
    await history.write("B", 2)
    copy_url = await history.backup()
    copy = Database(copy_url)
    await Archiver(copy, history.vault).run(WEEK)
    await copy.close()
    await history.write("B", 3)
    with pytest.raises(EpochBehind, match=r"reached .* from"):
        await history.archiver.run(WEEK)
    foreseen = await history.archiver.adopt(dry_run=True, set_aside=True)
    report = await history.archiver.adopt(set_aside=True)
    assert (report.aside, report.files, report.stale_rows) == (1, 0, 0)
    assert foreseen.aside == 1
    assert await history.seen() == {"A@1": 1, "B@1": 3}
    await history.archiver.run(WEEK)
    await history.archiver.compact()
    await history.clean()
    assert await history.seen() == {"A@1": 1, "B@1": 3}
    (finding,) = await history.archiver.fsck()
    assert finding.kind == "aside"
    assert not any(finding.key in one for one in (await history.archiver.forget(["A"])).remains)
    assert any(finding.key in one for one in (await history.archiver.forget(["B"])).remains)


async def test_appended_samples_of_a_shared_vault_are_adopted_by_nobody(history: History) -> None:
    """Vaults that two databases shared before that was refused: what is appended is both's."""
    history.append("A", 1)
    await history.archive("keep", 0)
    stranger = "_atlas/epochs/11111111-1111-1111-1111-111111111111.json"
    nonce = "22222222-2222-2222-2222-222222222222"
    history.vault.store.put_bytes(stranger, f'{{"epoch": 1, "nonce": "{nonce}"}}'.encode())
    await history.archiver.compact()
    await history.clean()
    assert len(history.files("metrics")) == 1
    history.vault.store.delete([stranger])
    await history.archiver.compact()
    await in_order(history, {"keep@1": 0, "A@1": 1})


async def test_a_reader_of_a_new_database_refuses_the_vault_of_another(history: History) -> None:
    history.append("A", 1)
    assert await history.seen() == {"A@1": 1}  # nobody's yet
    await history.archive("keep", 0)
    await history.lose()
    with pytest.raises(WrongVault, match="another database"):
        await history.seen()
