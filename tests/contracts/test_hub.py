"""What the Hugging Face store does against a Hub that limits, fails and answers late."""

from __future__ import annotations

from pathlib import Path

import pytest

from atlas.config import Settings
from atlas.errors import ObjectExists, VaultDenied, VaultError, VaultUnavailable
from atlas.vault import HuggingFaceVault, Vault
from atlas.vault.backends.huggingface import HuggingFaceStore
from tests.contracts.conftest import HUB_WARNS
from tests.support import hub_server
from tests.support.http import Reply
from tests.support.hub_server import Hub

pytestmark = HUB_WARNS


@pytest.fixture
def vault(hub: Hub, tmp_path: Path) -> Vault:
    store = HuggingFaceStore(hub_server.REPO, "run", token=hub_server.TOKEN, endpoint=hub.url)
    return Vault(store, tmp_path / "home")


def test_a_batch_is_one_commit_and_its_lost_answer_is_not_a_second_one(
    vault: Vault, hub: Hub
) -> None:
    hub.faults["commit"].append(hub.lost)
    vault.store_batch({f"d/{n}.json": n for n in range(60)})
    assert len(hub.history) == 2
    assert len(vault.list_files("d")) == 60


def test_rows_whose_commit_lost_its_answer_are_there_once(vault: Vault, hub: Hub) -> None:
    hub.faults["commit"].append(hub.lost)
    rows = [{"video_id": "V", "timestamp": f"2026-01-15T{hour:02}:00:00Z"} for hour in range(24)]
    assert vault.append_metrics(rows) == 24
    assert vault.pending().count == 0
    assert len(hub.history) == 2
    assert len(vault.list_files("metrics")) == 24


def test_a_write_of_what_another_writer_just_wrote_is_not_taken_for_ours(
    vault: Vault, hub: Hub
) -> None:
    """The client makes no commit of files that are there already, and does not look at the parent."""
    assert vault.store.compare_and_swap("n", None, b"1")
    hub.before["preupload"].append(lambda: hub.commit({"run/n": b"2"}))
    assert not vault.store.compare_and_swap("n", b"1", b"2")
    hub.before["preupload"].append(lambda: hub.commit({"run/x": b"same"}))
    with pytest.raises(ObjectExists):
        vault.store.put_bytes("x", b"same", overwrite=False)


def test_a_stale_parent_is_read_again_and_the_other_writer_keeps_its_files(
    vault: Vault, hub: Hub
) -> None:
    hub.before["commit"].append(lambda: hub.commit({"other": b"1"}))
    vault.store_json("a.json", 1)
    hub.faults["commit"].append(Reply(409, b"{}"))
    vault.store_json("b.json", 2)
    assert dict(hub.files) == {"other": b"1", "run/a.json": b"1", "run/b.json": b"2"}


def test_the_hundred_and_twenty_ninth_commit_of_an_hour_waits_in_the_spool(
    vault: Vault, hub: Hub
) -> None:
    now = hub.clock()
    hub.clock = lambda: now
    hub.commits_an_hour = 2
    vault.store_json("a.json", 1)
    vault.store_json("b.json", 1)
    with pytest.raises(VaultUnavailable) as caught:
        vault.store_json("c.json", 1)
    assert caught.value.retry_after == 3601
    row = {"video_id": "V", "timestamp": "2026-01-15T10:00:00Z", "views": 1}
    assert vault.append_metrics([row]) == 1
    assert vault.pending().count == 1
    hub.clock = lambda: now + 3601
    assert vault.flush() == 1
    assert vault.pending().count == 0
    assert len(vault.list_files()) == 3


def test_above_the_own_budget_nothing_is_sent_and_rows_wait(hub: Hub, tmp_path: Path) -> None:
    settings = Settings(hf_commits_per_hour=1, atlas_home=tmp_path / "home")
    vaults = [
        HuggingFaceVault(
            hub_server.REPO, hub_server.TOKEN, "run", endpoint=hub.url, settings=settings
        )
        for _ in range(2)
    ]
    vaults[0].store_json("a.json", 1)
    asked = hub.counts["preupload"]
    with pytest.raises(VaultUnavailable) as caught:
        vaults[1].store_json("b.json", 1)
    assert caught.value.retry_after is not None
    assert vaults[1].append_metrics([{"video_id": "V", "views": 1}]) == 1
    assert vaults[1].pending().count == 1
    assert hub.counts["preupload"] == asked
    assert len(hub.history) == 2


def test_a_full_folder_is_refused_for_good_and_leaves_nothing(vault: Vault, hub: Hub) -> None:
    hub.entries_a_folder = 3
    with pytest.raises(VaultError) as caught:
        vault.store_batch({f"d/{n}": b"x" for n in range(4)})
    assert not isinstance(caught.value, VaultUnavailable)
    assert vault.list_files() == []


def test_a_listing_is_whole_past_a_page_and_of_one_commit(vault: Vault, hub: Hub) -> None:
    hub.page = 7
    keys = [f"d{n % 3}/{n:03}" for n in range(50)]
    hub.commit({f"run/{key}": b"x" for key in keys})
    hub.before["tree"].extend([lambda: None, lambda: hub.commit({})])
    assert vault.list_files() == sorted(keys)
    assert vault.list_files() == []


def test_a_server_that_ignores_ranges_gives_an_error_not_wrong_bytes(
    vault: Vault, hub: Hub
) -> None:
    vault.store_binary("x", b"0123456789")
    hub.ranges = False
    for size in (None, 10):
        reader = vault.store.open("x", size)
        assert reader is not None
        with reader, pytest.raises(VaultError):
            reader.seek(4)
            reader.read(2)


@pytest.mark.parametrize("status", [403, 500, 503])
def test_a_hub_that_fails_is_never_taken_for_a_missing_object(
    status: int, vault: Vault, hub: Hub
) -> None:
    wanted = VaultDenied if status == 403 else VaultUnavailable
    for call in (
        lambda: vault.fetch_json("absent.json"),
        lambda: vault.store.stat("absent"),
        lambda: vault.store_json("x.json", 1),
    ):
        hub.faults["paths"].append(Reply(status, b"{}"))
        with pytest.raises(wanted):
            call()


def test_the_token_is_in_nothing_that_a_refusal_shows(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "hf_" + "s" * 34
    store = HuggingFaceStore(hub_server.REPO, token=secret, endpoint=hub.url)
    vault = Vault(store, tmp_path / "home")
    for call in (lambda: vault.store_json("a.json", 1), lambda: vault.fetch_json("a.json")):
        with pytest.raises(VaultDenied) as caught:
            call()
        shown = [repr(vault), repr(store), vault.store.uri("a.json"), store.identity]
        error: BaseException | None = caught.value
        while error is not None:
            shown += [str(error), repr(error)]
            error = error.__cause__
        assert secret not in "".join([*shown, *capfd.readouterr()])
