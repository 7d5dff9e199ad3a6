"""Calls of a remote store end, and are repeated while that may help."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from atlas.errors import ObjectExists, VaultDenied, VaultError, VaultUnavailable
from atlas.types import ObjectStore
from atlas.vault.offload import AT_ONCE, offload
from atlas.vault.stores import retrying
from atlas.vault.stores.memory import MemoryStore
from atlas.vault.stores.retrying import ATTEMPTS, PatientStore
from tests.support.impatience import no_pauses


class Moody(MemoryStore):
    """Raises what it is told to, before it does something or after."""

    def __init__(self) -> None:
        super().__init__("moody", "")
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.asked = 0
        self.hangs: threading.Event | None = None

    def _suffer(self, faults: list[Exception]) -> None:
        if faults:
            raise faults.pop(0)

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in OPERATIONS:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.asked += 1
            if self.hangs is not None:
                self.hangs.wait(20)
            self._suffer(self.before)
            result = found(*arguments, **options)
            if name == "list":
                result = iter([*result])
            self._suffer(self.after)
            return result

        return call


OPERATIONS = {
    "put_files": lambda store, path: store.put_files([("new", path)]),
    "put_bytes": lambda store, path: store.put_bytes("b", b"1"),
    "put_many": lambda store, path: store.put_many([("m", io.BytesIO(b"12"))]),
    "get_bytes": lambda store, path: store.get_bytes("there"),
    "open": lambda store, path: store.open("there"),
    "stat": lambda store, path: store.stat("there"),
    "list": lambda store, path: [*store.list("")],
    "delete": lambda store, path: store.delete(iter(["gone"])),
    "compare_and_swap": lambda store, path: store.compare_and_swap("s", None, b"1"),
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


@pytest.fixture
def moody() -> Moody:
    store = Moody()
    store.put_bytes("there", b"content")
    store.asked = 0
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"new content")
    return tmp_path / "file"


@every_operation
def test_what_does_not_answer_for_a_moment_is_asked_again(
    name: str, moody: Moody, path: Path
) -> None:
    patient: ObjectStore = PatientStore(moody)
    moody.before = [VaultUnavailable("busy")] * (ATTEMPTS - 1)
    answer = OPERATIONS[name](patient, path)
    assert moody.asked >= ATTEMPTS
    if name == "put_many":
        assert moody.get_bytes("m") == b"12"  # read again from where it began
    if name == "compare_and_swap":
        assert answer is True


@every_operation
def test_what_never_answers_is_told_after_a_number_of_tries(
    name: str, moody: Moody, path: Path
) -> None:
    moody.before = [VaultUnavailable("busy")] * 99
    with pytest.raises(VaultUnavailable, match="busy"):
        OPERATIONS[name](PatientStore(moody), path)
    assert moody.asked == ATTEMPTS


@every_operation
@pytest.mark.parametrize("error", [VaultDenied("no"), VaultError("wrong"), ObjectExists("there")])
def test_what_a_person_has_to_mend_is_told_at_once(
    name: str, error: VaultError, moody: Moody, path: Path
) -> None:
    moody.before = [error]
    with pytest.raises(type(error)):
        OPERATIONS[name](PatientStore(moody), path)
    assert moody.asked == 1


def test_who_asks_for_more_time_than_there_is_is_not_waited_for(moody: Moody) -> None:
    error = VaultUnavailable("come back in an hour")
    error.retry_after = 3600.0
    moody.before = [error]
    with pytest.raises(VaultUnavailable, match="an hour"):
        PatientStore(moody).stat("there")
    assert moody.asked == 1


@every_operation
def test_what_hangs_is_given_up_and_keeps_nobody(
    name: str, moody: Moody, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("CALL_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(retrying, limit, 0.05)
    moody.hangs = threading.Event()
    try:
        with pytest.raises(VaultUnavailable, match="no answer in"):
            OPERATIONS[name](PatientStore(moody), path)
    finally:
        moody.hangs.set()


def test_calls_that_hang_for_ever_keep_nobody_from_the_store_once_it_is_back(
    moody: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "CALL_SECONDS", 0.02)
    patient = PatientStore(moody)
    moody.hangs = hung = threading.Event()
    try:
        for _ in range(retrying.AT_ONCE):
            with pytest.raises(VaultUnavailable):
                patient.stat("there")
        moody.hangs = None
        monkeypatch.setattr(retrying, "CALL_SECONDS", 10.0)
        assert patient.stat("there") is not None
    finally:
        hung.set()


def documents(number: int) -> list[tuple[str, BinaryIO]]:
    return [(f"d/{one}", io.BytesIO(str(one).encode())) for one in range(number)]


def test_documents_are_put_each_for_itself_and_none_again_for_another(moody: Moody) -> None:
    moody.before = [VaultUnavailable("busy")] * 2
    PatientStore(moody).put_many(documents(30))
    assert moody.asked == 32
    assert {info.key: info.size for info in moody.list("d")} == {
        f"d/{one}": len(str(one)) for one in range(30)
    }


def test_several_documents_are_under_way_at_a_time(moody: Moody) -> None:
    together = threading.Barrier(retrying.AT_ONCE)
    put = MemoryStore.put_many

    def meet(items: Any) -> None:
        together.wait(10)
        put(moody, items)

    moody.__dict__["put_many"] = meet
    PatientStore(moody).put_many(documents(2 * retrying.AT_ONCE))


def test_a_document_that_is_refused_ends_the_rest(moody: Moody) -> None:
    moody.before = [VaultDenied("no")] * 999
    with pytest.raises(VaultDenied):
        PatientStore(moody).put_many(documents(200))
    assert moody.asked < 100


def test_a_store_that_takes_many_at_once_is_given_them_so(moody: Moody) -> None:
    moody.__dict__["batch"] = 50
    PatientStore(moody).put_many(documents(30))
    assert moody.asked == 1


def test_a_write_has_time_for_its_size(moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr(PatientStore, "_patiently", lambda _, call, seconds: times.append(seconds))
    source = io.BytesIO(b"x" * 1_000_000)
    source.seek(500_000)
    moody.__dict__["batch"] = 2
    PatientStore(moody).put_many([("a", source), ("b", io.BytesIO(b"y" * 500_000))])
    assert times == [retrying.CALL_SECONDS + 1_000_000 / retrying.SLOWEST]


def test_a_swap_whose_answer_was_lost_has_swapped(moody: Moody) -> None:
    patient = PatientStore(moody)
    moody.after = [VaultUnavailable("lost")]
    assert patient.compare_and_swap("s", None, b"1") is True
    assert patient.compare_and_swap("s", None, b"2") is False
    # somebody else was first, and our own first try had no answer
    moody.before = [VaultUnavailable("busy")]
    assert patient.compare_and_swap("s", None, b"2") is False


def test_a_read_that_failed_is_repeated_from_where_it_was(moody: Moody) -> None:
    class Breaking(io.BytesIO):
        failures = 2

        def read(self, size: int | None = -1) -> bytes:
            if Breaking.failures:
                Breaking.failures -= 1
                raise VaultUnavailable("cut off")
            return super().read(size)

    def opened(key: str, size: int | None = None) -> BinaryIO:
        return Breaking(b"0123456789")

    moody.__dict__["open"] = opened
    source = PatientStore(moody).open("x")
    assert source is not None
    source.seek(4)
    assert source.read(3) == b"456"
    assert source.tell() == 7


async def test_vault_calls_wait_for_a_bounded_number_of_threads_of_their_own() -> None:
    release, running = threading.Event(), threading.Semaphore(0)

    def call() -> str:
        running.release()
        release.wait(20)
        return threading.current_thread().name

    waiting = [asyncio.create_task(offload(call)) for _ in range(AT_ONCE + 3)]
    try:
        for _ in range(AT_ONCE):
            assert await asyncio.to_thread(running.acquire, timeout=10)  # the loop's own are free
        assert not running.acquire(blocking=False)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]  # at once, though its call goes on
    finally:
        release.set()
    names = await asyncio.gather(*waiting[1:])
    assert all(name.startswith("atlas-offload") for name in names)
