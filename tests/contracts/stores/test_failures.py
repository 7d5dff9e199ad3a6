"""What is missing is None, what fails is an error: on every service, from every method."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from atlas.errors import VaultDenied, VaultFull, VaultUnavailable
from atlas.vault import Vault
from atlas.vault.stores import retrying
from tests.contracts.conftest import HUB_WARNS
from tests.support.impatience import FOR_EVER, no_pauses
from tests.support.servers import gcs_proxy, hub_server
from tests.support.servers.gcs_proxy import Gcs, refusal
from tests.support.servers.http import Reply
from tests.support.servers.hub_server import Hub

METHODS: dict[str, Callable[[Vault], Any]] = {
    "fetch_json": lambda vault: vault.fetch_json("a.json"),
    "fetch_binary": lambda vault: vault.fetch_binary("a"),
    "fetch_metadata": lambda vault: vault.fetch_metadata("V1", "2026-01-15"),
    "fetch_transcript": lambda vault: vault.fetch_transcript("V1"),
    "fetch_visual_evidence": lambda vault: vault.fetch_visual_evidence("V1"),
    "list_files": lambda vault: vault.list_files("a"),
    "stat": lambda vault: vault.store.stat("a"),
    "open": lambda vault: vault.store.open("a"),
    "get_bytes": lambda vault: vault.store.get_bytes("a"),
    "compare_and_swap": lambda vault: vault.store.compare_and_swap("a", None, b"1"),
    "store_json": lambda vault: vault.store_json("a.json", 1),
    "put_bytes": lambda vault: vault.store.put_bytes("a", b"1", overwrite=False),
    "delete": lambda vault: vault.store.delete(["a"]),
}


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


@pytest.fixture(params=["gcs", pytest.param("huggingface", marks=HUB_WARNS)])
def service(request: pytest.FixtureRequest) -> tuple[Gcs | Hub, Vault]:
    """A service and a vault on it."""
    if request.param == "gcs":
        return request.getfixturevalue("gcs"), Vault(request.getfixturevalue("bucket"))
    return request.getfixturevalue("hub"), request.getfixturevalue("hub_vault")


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method", METHODS)
def test_a_refusal_is_told_at_once_and_not_as_a_gap(
    service: tuple[Gcs | Hub, Vault], method: str, status: int
) -> None:
    server, vault = service
    fail_everything(server, Reply(status, b'{"error": {"message": "no"}}'))
    with pytest.raises(VaultDenied) as caught:
        METHODS[method](vault)
    assert caught.value.hint
    assert sum(server.counts.values()) == 1


@pytest.mark.parametrize("fault", [Reply(500), Reply(503), Reply(429), Reply(cut=True)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_service_that_is_down_is_told_and_not_as_a_gap(
    service: tuple[Gcs | Hub, Vault], method: str, fault: Reply
) -> None:
    server, vault = service
    fail_everything(server, fault)
    with pytest.raises(VaultUnavailable) as caught:
        METHODS[method](vault)
    assert not fault.cut or "no answer from 127.0.0.1:" in str(caught.value)


@pytest.mark.parametrize("fault", [Reply(500), Reply(cut=True)], ids=["500", "cut"])
def test_rows_of_a_write_that_failed_wait_and_are_not_taken_for_delivered(
    service: tuple[Gcs | Hub, Vault], fault: Reply
) -> None:
    server, vault = service
    write = "upload" if isinstance(server, Gcs) else "commit"
    server.faults[write].extend([fault] * FOR_EVER)
    assert vault.append_metrics([{"video_id": "V1", "views": 1}]) == 1
    assert vault.pending().count == 1
    server.faults.clear()
    assert vault.list_files("metrics") == []
    assert vault.flush() == 1
    assert vault.pending().count == 0
    assert len(vault.list_files("metrics")) == 1


def fail_everything(server: Gcs | Hub, reply: Reply) -> None:
    """Every request has this answer."""
    for name, *_ in gcs_proxy.ROUTES if isinstance(server, Gcs) else hub_server.ROUTES:
        server.faults[name].extend([reply] * FOR_EVER)


@pytest.mark.parametrize("words", [(402, "pay"), (413, "large"), (507, "full"), (403, "Quota!")])
def test_a_store_that_has_no_room_is_told_at_once(
    service: tuple[Gcs | Hub, Vault], words: tuple[int, str]
) -> None:
    server, vault = service
    status, message = words
    if status == (402 if isinstance(server, Gcs) else 403):
        pytest.skip("not how this service says it")
    write = "upload" if isinstance(server, Gcs) else "commit"
    server.faults[write].extend([refusal(status, message)] * FOR_EVER)
    with pytest.raises(VaultFull) as caught:
        vault.store_json("a.json", 1)
    assert caught.value.hint
    assert server.counts[write] == 1


@HUB_WARNS
def test_a_listing_of_the_hub_that_breaks_off_is_an_error_and_no_shorter_one(
    hub: Hub, hub_vault: Vault
) -> None:
    hub_vault.store_batch({f"d/{number}": b"1" for number in range(9)})
    hub.page = 4
    hub.counts.clear()
    hub.trouble = lambda name: Reply(503) if name == "tree" and hub.counts["tree"] > 1 else None
    with pytest.raises(VaultUnavailable):
        hub_vault.list_files("d")
    hub.trouble = lambda name: None
    assert len(hub_vault.list_files("d")) == 9


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("request_of", "method"),
    [
        ("info", "fetch_binary"),
        ("paths", "stat"),
        ("resolve", "get_bytes"),
        ("tree", "list_files"),
        ("preupload", "store_json"),
        ("commit", "store_json"),
        ("commit", "delete"),
        ("batch", "store_visuals"),
        ("upload", "store_visuals"),
    ],
)
@HUB_WARNS
def test_a_hub_that_does_not_answer_is_given_up_and_asked_again_later(
    hub: Hub, hub_vault: Vault, request_of: str, method: str
) -> None:
    call = METHODS.get(method, lambda vault: vault.store_visual_evidence("V1", [(0, b"frame")]))
    hub_vault.store.put_bytes("a", b"1")
    over = threading.Event()
    hub.faults[request_of].extend([Reply(until=over)] * FOR_EVER)
    try:
        with pytest.raises(VaultUnavailable, match="no answer in"):
            call(hub_vault)
        hub.faults.clear()
        call(hub_vault)
    finally:
        over.set()
        for thread in threading.enumerate():
            if thread.name == "atlas-vault":
                thread.join(10)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("CALL_SECONDS", "READ_SECONDS"):
        monkeypatch.setattr(retrying, limit, 0.4)
