"""What the Hugging Face store does against a Hub that limits, fails and answers late."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from atlas.archive.maintenance.fsck import garbage
from atlas.config import Settings
from atlas.errors import ObjectExists, VaultDenied, VaultError, VaultUnavailable
from atlas.vault import HuggingFaceVault, Vault
from atlas.vault.stores.huggingface import HuggingFaceStore
from tests.contracts.conftest import HUB_WARNS
from tests.support.servers import hub_server
from tests.support.servers.http import Reply
from tests.support.servers.hub_server import Hub

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
    vaults[1].store_json("b.json", 1)
    assert vaults[1].append_metrics([{"video_id": "V", "views": 1}]) == 1
    assert vaults[1].pending().count == 2
    with pytest.raises(VaultUnavailable) as caught:
        vaults[1].flush()
    assert caught.value.retry_after is not None
    assert hub.counts["preupload"] == asked
    assert len(hub.history) == 2
    for outbox in vaults[1]._outboxes.values():
        outbox.stop()


def test_a_full_folder_is_refused_for_good_and_leaves_nothing(vault: Vault, hub: Hub) -> None:
    hub.entries_a_folder = 3
    with pytest.raises(VaultError) as caught:
        vault.store_batch({f"d/{n}": b"x" for n in range(4)})
    assert not isinstance(caught.value, VaultUnavailable)
    assert vault.list_files() == []


def test_a_day_of_metadata_passes_the_limit_of_a_folder(vault: Vault, hub: Hub) -> None:
    hub.entries_a_folder = 5
    ids = [f"{n:02}" for n in range(5)]
    for first in ("a", "b"):
        for video in ids[:3]:
            vault.store_metadata(f"{first}0-{video}", {"id": video}, "2026-01-15")
    keys = [f"metadata/2026-01-15/{first}0-{video}.json" for first in "ab" for video in ids[:3]]
    assert vault.list_files("metadata") == keys == vault.list_files("metadata/2026-01-15")
    assert vault.fetch_json(keys[0]) == {"id": "00"}
    assert "run/metadata/2026-01-15/a0/a0-00.json" in hub.files
    uri = vault.store_metadata("a0-00", 2, "2026-01-15")
    assert uri == f"hf://datasets/{hub_server.REPO}/run/metadata/2026-01-15/a0/a0-00.json"
    assert vault.fetch_json(uri) == 2


def test_metadata_that_lie_flat_are_found_and_replaced_and_removed(vault: Vault, hub: Hub) -> None:
    flat, deep = (f"run/metadata/2026-01-15/{path}" for path in ("V1.json", "V1/V1.json"))
    hub.commit({flat: b"1", "run/metadata/2026-01-15/V2.json": b"2"})
    assert vault.fetch_metadata("V1", "2026-01-15") == 1
    with pytest.raises(ObjectExists):
        vault.store.put_bytes("metadata/2026-01-15/V1.json", b"3", overwrite=False)
    vault.store_metadata("V1", 4, "2026-01-15")
    assert flat not in hub.files
    assert hub.files[deep] == b"4"
    keys = ["metadata/2026-01-15/V1.json", "metadata/2026-01-15/V2.json"]
    assert vault.list_files() == keys
    # as two writers may leave them
    hub.commit({**hub.files, flat: b"older"})
    assert vault.fetch_metadata("V1", "2026-01-15") == 4
    assert [info.size for info in vault.store.list("metadata")] == [1, 1]
    vault.store.delete(keys)
    assert not hub.files


def carded(hub: Hub, prefix: str = "run") -> Vault:
    store = HuggingFaceStore(
        hub_server.REPO, prefix, token=hub_server.TOKEN, endpoint=hub.url, card=True
    )
    return Vault(store)


def configs(hub: Hub) -> dict[str, str]:
    card = DatasetCard(hub.files["README.md"].decode())
    return {one["config_name"]: one["data_files"] for one in card.data["configs"]}


def test_the_first_commit_brings_a_card_that_names_the_tables(hub: Hub) -> None:
    vault = carded(hub, "")
    vault.store.delete(["nothing"])
    assert len(hub.history) == 1
    vault.store_json("a.json", 1)
    assert len(hub.history) == 2
    assert configs(hub) == {
        "video_stats": "video_stats/*/*.parquet",
        "metrics": "metrics/*/*/*.parquet",
        "videos": "videos/*/*.parquet",
        "schedule": "schedule/*/*.parquet",
    }
    assert vault.list_files() == ["a.json"]
    hub.counts.clear()
    vault.store_json("b.json", 1)
    carded(hub, "").store_json("c.json", 1)
    # the second vault reads it once and leaves it
    assert hub.counts["commit"] == 2
    assert hub.counts["resolve"] == 1


def test_a_persons_card_keeps_its_text_and_its_own_tables(hub: Hub) -> None:
    own = "configs:\n- config_name: metrics\n  data_files: mine/*.csv\n"
    hub.commit({"README.md": f"---\nlicense: mit\n{own}---\n# My words\n".encode()})
    carded(hub).store_json("a.json", 1)
    text = hub.files["README.md"].decode()
    assert text.endswith("# My words\n")
    assert "license: mit" in text
    assert configs(hub)["metrics"] == "mine/*.csv"
    assert configs(hub)["video_stats"] == "run/video_stats/*/*.parquet"


def test_a_card_whose_head_cannot_be_read_is_left_alone(hub: Hub) -> None:
    broken = b"---\nconfigs: [\n---\n# My words\n"
    hub.commit({"README.md": broken})
    carded(hub).store_json("a.json", 1)
    assert hub.files["README.md"] == broken


def test_a_look_tells_when_a_file_was_committed_last(vault: Vault, hub: Hub) -> None:
    """Clean-up asks for it: listings have no times."""
    now = hub.clock()
    hub.clock = lambda: now - 86_400
    vault.store_json("a.json", 1)
    hub.clock = lambda: now
    vault.store_json("b.json", 1)
    found = [vault.store.stat(key) for key in ("a.json", "b.json")]
    days = [info and info.modified_at and info.modified_at.timestamp() // 1 for info in found]
    assert days == [(now - 86_400) // 1, now // 1]


def test_clean_up_finds_what_is_old_enough_though_listings_tell_no_times(
    vault: Vault, hub: Hub
) -> None:
    now = hub.clock()
    hub.clock = lambda: now - 86_400
    vault.store.put_bytes("video_stats/old", b"1")
    vault.store.put_bytes("video_stats/unnamed", b"1")
    hub.clock = lambda: now
    vault.store.put_bytes("video_stats/new", b"1")
    objects = list(vault.store.list("video_stats"))
    gone = frozenset({"video_stats/old", "video_stats/new"})
    found = garbage(vault.store, objects, gone, timedelta(hours=1))
    assert [info.key for info in found] == ["video_stats/old"]


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
