"""The vault and the spool while processes die, disks fill and stores fail: nothing lost, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import structlog

from atlas.errors import ObjectExists, VaultDenied, VaultError, VaultFull, VaultUnavailable
from atlas.vault import LocalVault, MemoryVault


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    return LocalVault(tmp_path / "vault", home=tmp_path / "home")


def child(folder: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.children.vault_child"),
            *(str(folder / "vault"), str(folder / "home"), *args),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finish(process: subprocess.Popen[str], returncode: int = 0) -> list[str]:
    """The lines the child told."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == returncode, err[-3000:]
    return out.splitlines()


def row(video_id: str, views: int = 1) -> dict[str, Any]:
    return {
        "video_id": video_id,
        "timestamp": datetime(2026, 1, 15, 10, tzinfo=UTC),
        "views": views,
    }


def stored(vault: LocalVault | MemoryVault) -> list[str]:
    """The video of every row in the vault."""
    found: list[str] = []
    for key in vault.list_files("metrics"):
        data = vault.fetch_binary(key)
        assert data is not None
        found += pq.read_table(data)["video_id"].to_pylist()
    return sorted(found)


def failing(vault: LocalVault, error: Exception, patch: pytest.MonkeyPatch) -> None:
    def put_files(items: object) -> None:
        raise error

    patch.setattr(vault.store, "put_files", put_files)


@pytest.mark.parametrize("event", ["metrics_spooled", "metrics_delivered"])
def test_a_kill_between_two_steps_loses_and_doubles_no_acknowledged_row(
    event: str, vault: LocalVault, tmp_path: Path
) -> None:
    acknowledged = finish(child(tmp_path, "append", event), -signal.SIGKILL)
    assert len(acknowledged) == 2
    vault.flush()
    # the third row was on the disk when the process died: it may not be lost either
    assert stored(vault) == ["v0", "v1", "v2"]
    assert vault.pending().count == 0
    assert vault.append_metrics([row("v2", 2)]) == 0


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_kill_at_any_moment_loses_and_doubles_no_acknowledged_row(
    after: int, vault: LocalVault, tmp_path: Path
) -> None:
    process = child(tmp_path, "append")
    assert process.stdout is not None
    for _ in range(after):
        process.stdout.readline()
    process.kill()
    acknowledged = after + len(finish(process, -signal.SIGKILL))
    vault.flush()
    rows = stored(vault)
    assert len(rows) == len(set(rows))
    assert set(rows) >= {f"v{number}" for number in range(acknowledged)}
    assert set(rows) <= {f"v{number}" for number in range(acknowledged + 1)}


def test_a_kill_while_writing_leaves_only_whole_objects(vault: LocalVault, tmp_path: Path) -> None:
    size = 3_000_000
    process = child(tmp_path, "write", str(size))
    assert process.stdout is not None
    for _ in range(4):
        process.stdout.readline()
    process.kill()
    finish(process, -signal.SIGKILL)
    keys = vault.list_files()
    assert set(keys) >= {"large/0", "large/1"}
    for key in keys:
        content = vault.store.get_bytes(key)
        assert content is not None
        assert content == content[:1] * size


def test_two_processes_that_deliver_one_spool_deliver_each_row_once(
    vault: LocalVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(vault, VaultUnavailable("down"), patch)
        for number in range(60):
            vault.append_metrics([row(f"v{number}")])
    assert vault.pending().count == 60
    processes = [child(tmp_path, "flush") for _ in range(2)]
    delivered = [int(finish(process)[0]) for process in processes]
    assert sum(delivered) == 60
    assert stored(vault) == sorted(f"v{number}" for number in range(60))
    assert vault.pending().count == 0


def test_a_file_that_another_process_just_delivered_is_no_error(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = vault.store.put_files

    def come_second(items: Any) -> None:
        if items[0][1].exists() and not vault.list_files("metrics"):
            put(items)
            items[0][1].unlink()
        put(items)

    monkeypatch.setattr(vault.store, "put_files", come_second)
    vault.append_metrics([row("a")])
    vault.append_metrics([row("b")])
    assert stored(vault) == ["a", "b"]


def test_swaps_of_two_processes_lose_no_step(vault: LocalVault, tmp_path: Path) -> None:
    processes = [child(tmp_path, "count", "40") for _ in range(2)]
    for process in processes:
        finish(process)
    assert vault.store.get_bytes("n") == b"80"


def test_rows_wait_on_the_disk_while_the_store_does_not_answer(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        failing(vault, VaultUnavailable("down"), patch)
        assert vault.append_metrics([row("a")]) == 1
        assert vault.append_metrics([row("a")]) == 0
        assert vault.append_metrics([row("b")]) == 1
        with pytest.raises(VaultUnavailable):
            vault.flush()
    warnings = [log for log in logs if log["event"] == "metrics_wait_in_spool"]
    assert [(log["log_level"], log["files"]) for log in warnings] == [
        ("warning", n) for n in (1, 1, 2)
    ]
    waiting = vault.pending()
    assert waiting.count == 2
    assert waiting.bytes > 100
    assert waiting.oldest is not None
    assert before < waiting.oldest < datetime.now(UTC) + timedelta(seconds=5)
    assert stored(vault) == []
    # another object for the same vault finds them, and the next append delivers them
    again = LocalVault(vault.store.root, home=vault._home)
    assert again.append_metrics([row("c")]) == 1
    assert stored(vault) == ["a", "b", "c"]
    assert vault.pending().count == vault.flush() == 0


def test_a_write_whose_answer_was_lost_is_not_written_twice(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = vault.store.put_files

    def succeed_and_lose_the_answer(items: Any) -> None:
        put(items)
        raise VaultUnavailable("lost")

    with monkeypatch.context() as patch:
        patch.setattr(vault.store, "put_files", succeed_and_lose_the_answer)
        vault.append_metrics([row("a")])
    assert vault.pending().count == 1
    assert vault.flush() == 0
    assert vault.pending().count == 0
    assert stored(vault) == ["a"]


@pytest.mark.parametrize("error", [VaultDenied("no"), VaultFull("full"), VaultError("odd")])
def test_a_store_that_needs_a_hand_is_told_and_the_rows_are_kept(
    error: VaultError, vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
        failing(vault, error, patch)
        vault.append_metrics([row("a")])
    assert "the rows are safe" in caught.value.__notes__[0]
    assert vault.flush() == 1
    assert stored(vault) == ["a"]


def test_a_row_is_remembered_for_a_week_and_then_forgotten(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(day: int) -> type[datetime]:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime(2026, 2, day, 12, tzinfo=tz)

        return Clock

    def append_on(day: int, video_id: str) -> int:
        with monkeypatch.context() as patch:
            patch.setattr("atlas.vault.spool.metrics.datetime", on(day))
            added = vault.append_metrics([row(video_id)])
            vault.store.delete(vault.list_files("metrics"))
            return added

    assert append_on(1, "a") == 1
    assert append_on(8, "a") == 0
    assert append_on(9, "b") == 1
    assert append_on(9, "a") == 1
    days = sorted(path.name for path in (vault._home or Path()).glob("spool/*/delivered/*"))
    assert [date.fromisoformat(day).day for day in days] == [9]


def test_a_home_that_cannot_be_written_is_an_error_before_anything_is_put(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder is needed")
    vault = LocalVault(tmp_path / "vault", home=tmp_path / "home")
    with pytest.raises(VaultError):
        vault.append_metrics([row("a")])
    with pytest.raises(VaultError):
        vault.pending()
    assert vault.list_files() == []


@pytest.mark.parametrize("place", ["vault", "above"])
def test_a_file_where_the_vault_should_be_is_an_error_not_an_empty_vault(
    place: str, tmp_path: Path
) -> None:
    (tmp_path / "vault").write_text("a file where a folder is needed")
    vault = LocalVault(tmp_path / "vault" / ("deeper" if place == "above" else ""))
    for call in (
        lambda: vault.list_files(),
        lambda: vault.list_files("metrics"),
        lambda: vault.fetch_binary("x"),
        lambda: vault.store.stat("x"),
        lambda: vault.store_binary("x", b""),
        lambda: vault.append_metrics([row("a")]),
    ):
        with pytest.raises(VaultError):
            call()
    assert vault.pending().count == 1


def test_a_full_disk_is_told_and_nothing_is_half_written(vault: LocalVault, tmp_path: Path) -> None:
    vault.store_binary("taken", b"before")
    told = finish(child(tmp_path, "full", "20000"))
    assert told == ["store_binary VaultFull", "append_metrics VaultFull"]
    assert vault.store.get_bytes("taken") == b"before"
    assert vault.list_files() == ["taken"]
    assert vault.pending().count == 0
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(set(left) - {".lock"}) == ["taken"]


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """A folder that every user can reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="atlas-denied-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_vault_that_may_only_be_read_is_read_and_tells_of_writes(readable_folder: Path) -> None:
    vault = LocalVault(readable_folder / "vault")
    vault.store_binary("taken", b"before")
    (readable_folder / "home").mkdir()
    for path in (readable_folder / "vault", readable_folder / "home"):
        path.chmod(0o555)
    (readable_folder / "vault" / "taken").chmod(0o444)
    told = finish(child(readable_folder, "denied"))
    writes = ("store_binary", "new_folder", "delete", "append_metrics")
    assert told == ["fetch_binary BytesIO", *(f"{what} VaultDenied" for what in writes)]
    assert vault.store.get_bytes("taken") == b"before"


def test_links_below_the_vault_are_refused(vault: LocalVault, tmp_path: Path) -> None:
    vault.store_binary("real/x", b"inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    root = tmp_path / "vault"
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "real" / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "loop").symlink_to(root / "loop")
    for call in (
        lambda: vault.fetch_binary("folder/secret"),
        lambda: vault.store_binary("folder/new", b""),
        lambda: vault.store.delete(["folder/secret"]),
        lambda: vault.fetch_binary("real/file"),
        lambda: vault.store_binary("real/file", b""),
        lambda: vault.store.put_bytes("real/file", b"", overwrite=False),
        lambda: vault.fetch_binary("loop"),
        lambda: vault.list_files(),
        lambda: vault.list_files("real"),
    ):
        with pytest.raises(VaultDenied):
            call()
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["secret"]


def test_the_vault_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    vault = LocalVault(tmp_path / "link")
    vault.store_binary("a/x", b"1")
    assert vault.list_files() == ["a/x"]
    assert vault.identity == LocalVault(tmp_path / "disk").identity


def test_files_and_folders_are_private_to_the_user(vault: LocalVault, tmp_path: Path) -> None:
    vault.append_metrics([row("a")])
    for path in [*(tmp_path / "vault").rglob("*"), *(tmp_path / "home").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_without_hard_links_a_create_still_never_replaces(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*args: object, **options: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    barrier = threading.Barrier(6)

    def create(number: int) -> bool:
        barrier.wait()
        try:
            vault.store.put_bytes("one", b"%d" % number, overwrite=False)
        except ObjectExists:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(create, range(6)))
    assert won.count(True) == 1
    assert vault.store.get_bytes("one") == b"%d" % won.index(True)


def test_a_memory_vault_forgets_with_its_process_not_before() -> None:
    one, two = MemoryVault("shared-by-name"), MemoryVault("shared-by-name")
    one.append_metrics([row("a")])
    assert stored(two) == ["a"]
    assert two.append_metrics([row("a")]) == 1  # it remembers nothing of the other's calls
    assert stored(two) == ["a"]


def test_a_spooled_file_is_the_object_to_be(
    vault: LocalVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(vault, VaultUnavailable("down"), patch)
        vault.append_metrics([row("a")])
    (waiting,) = (vault._home or Path()).glob("spool/*/pending/*")
    content = waiting.read_bytes()
    vault.flush()
    assert [vault.store.get_bytes(key) for key in vault.list_files("metrics")] == [content]
