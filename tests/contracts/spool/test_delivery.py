"""A thousand calls an hour on a service that takes a hundred commits: what waits and what is seen."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import structlog

from atlas.errors import VaultDenied, VaultError, VaultUnavailable
from atlas.vault import Vault
from atlas.vault.spool.delivery import Pace
from tests.contracts.conftest import HUB_WARNS
from tests.support.children.spool_child import row, vault_of
from tests.support.impatience import no_pauses
from tests.support.servers.gcs_proxy import Gcs
from tests.support.servers.http import Reply
from tests.support.servers.hub_server import Hub

pytestmark = HUB_WARNS

#: Longer than any test.
LONG = 3600.0
Make = Callable[..., Vault]


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with no_pauses():
        yield


@pytest.fixture
def make(hub: Hub, tmp_path: Path) -> Iterator[Make]:
    """Makes vaults that share a spool, as processes of one machine do; their threads end with the test."""
    made: list[Vault] = []

    def make(seconds: float = LONG, home: str = "home", **options: Any) -> Vault:
        made.append(vault_of(hub.url, tmp_path / home, seconds, **options))
        return made[-1]

    yield make
    for vault in made:
        for outbox in vault._outboxes.values():
            outbox.stop()


def videos(vault: Vault) -> list[str]:
    """The video of every row in the repository."""
    found: list[str] = []
    for info in vault.store.list("metrics"):
        content = io.BytesIO(vault.store.get_bytes(info.key) or b"")
        found += pq.read_table(content, columns=["video_id"])[0].to_pylist()
    return sorted(found)


def documents(hub: Hub) -> dict[str, Any]:
    """What the repository holds of the child's documents."""
    return {
        path.removeprefix("run/d/"): json.loads(content)
        for path, content in hub.files.items()
        if path.startswith("run/d/")
    }


def test_a_thousand_calls_are_a_few_commits_and_all_seen_meanwhile(hub: Hub, make: Make) -> None:
    vault = make(commits=100)
    for number in range(100):
        vault.store_json(f"d/{number}.json", number)
        vault.append_metrics([row(number)])
    # the first call found nobody waiting; nothing else has left
    assert len(hub.history) == 2
    waiting = vault.pending()
    assert (waiting.count, waiting.documents) == (199, 99)
    other = make()
    assert other.fetch_json("d/77.json") == 77
    assert len(other.list_files("d")) == 100
    key = next(key for key in other.list_files("metrics") if "2026-01-02/hour=03" in key)
    found = other.fetch_binary(key)
    assert found is not None
    assert pq.read_table(found)["video_id"].to_pylist() == ["v27"]
    assert vault.flush() == 199
    # documents and rows, 50 a commit
    assert len(hub.history) == 2 + 2 + 2
    assert documents(hub) == {f"{number}.json": number for number in range(100)}
    assert videos(vault) == sorted(f"v{number}" for number in range(100))
    assert vault.pending().count == 0


def test_of_two_writes_of_a_path_the_last_one_counts_wherever_it_waits(
    hub: Hub, make: Make
) -> None:
    one, two = make(), make()
    for number, vault in enumerate((one, one, two, one)):
        vault.store_json("x.json", number)
        assert one.fetch_json("x.json") == two.fetch_json("x.json") == number
    two.flush()
    assert hub.files["run/x.json"] == b"3"
    # and again while the first of them is under way
    one.store_json("x.json", 4)
    hub.before["commit"].append(lambda: two.store_json("x.json", 5))
    one.flush()
    assert hub.files["run/x.json"] == b"5"
    assert one.pending().count == 0


def test_what_waits_goes_by_age_without_another_call(hub: Hub, make: Make) -> None:
    vault = make(0.05)
    arrived = threading.Event()
    vault.store_json("d/0.json", 0)
    hub.before["commit"].extend([lambda: None, arrived.set])
    vault.store_json("d/1.json", 1)
    vault.append_metrics([row(1)])
    assert arrived.wait(30)
    vault._outbox().stop()
    assert documents(hub) == {"0.json": 0, "1.json": 1}


def test_a_full_batch_goes_before_its_time(hub: Hub, make: Make) -> None:
    vault = make(LONG)
    arrived = threading.Event()
    vault.store_json("d/0.json", 0)
    hub.before["commit"].append(arrived.set)
    for number in range(1, 51):
        vault.store_json(f"d/{number}.json", number)
    assert arrived.wait(30)
    vault.flush()
    assert len(documents(hub)) == 51
    assert len(hub.history) == 3


def test_a_batch_of_ones_own_is_one_commit_at_once(hub: Hub, make: Make) -> None:
    vault = make()
    vault.store_json("d/0.json", 0)
    vault.store_batch({f"d/{number}.json": number for number in range(1, 60)})
    assert len(hub.history) == 3
    assert len(documents(hub)) == 60


def test_above_the_budget_calls_are_taken_and_told(hub: Hub, make: Make) -> None:
    vault = make(0, commits=1)
    with structlog.testing.capture_logs() as logs:
        for number in range(20):
            vault.store_json(f"d/{number}.json", number)
            vault.append_metrics([row(number)])
    assert len(hub.history) == 2
    assert vault.pending().count == 39
    (told,) = (log for log in logs if log["event"] == "spool_waits")
    assert told["wait_seconds"] > 3000
    hub.counts.clear()
    assert vault.fetch_json("d/19.json") == 19
    assert not hub.counts


@pytest.mark.parametrize("fault", [Reply(503), Reply(cut=True)], ids=["503", "cut"])
def test_a_document_outlives_an_outage_and_is_written_once(
    hub: Hub, make: Make, fault: Reply
) -> None:
    vault = make(0)
    hub.faults["commit"].extend([fault] * 99)
    assert vault.store_transcript("V1", ["words"]).endswith("/V1/V1.json")
    assert vault.fetch_transcript("V1") == ["words"]
    assert vault.store.get_bytes("transcripts/V1/V1.json") is None
    assert vault.waiting_documents() == ["transcripts/V1/V1.json"]
    hub.faults.clear()
    assert vault.flush() == 1
    assert len(hub.history) == 2
    assert vault.store.get_bytes("transcripts/V1/V1.json") == b'["words"]'


def test_a_document_waits_for_google_too_but_only_in_an_outage(
    gcs: Gcs, bucket: Any, tmp_path: Path
) -> None:
    vault = Vault(bucket, tmp_path / "home", pace=Pace())
    vault.store_json("a.json", 1)
    vault.store_json("a.json", 2)
    assert vault.pending().count == 0
    gcs.faults["upload"].extend([Reply(503)] * 99)
    vault.store_json("a.json", 3)
    gcs.faults.clear()
    # a later write must not be overtaken by the one that waits
    vault.store_json("a.json", 4)
    assert vault.fetch_json("a.json") == 4
    vault.flush()
    assert vault.store.get_bytes("a.json") == b"4"
    assert vault.pending().count == 0
    for outbox in vault._outboxes.values():
        outbox.stop()


def test_a_refusal_is_told_to_the_caller_though_his_bytes_are_safe(hub: Hub, make: Make) -> None:
    vault = make()
    vault.store_json("d/0.json", 0)
    vault.store_json("d/1.json", 1)
    outbox = vault._outbox()
    assert outbox is not None
    hub.faults["info"].append(Reply(403))
    with pytest.raises(VaultDenied):
        outbox._round()
    outbox._failed = VaultDenied("no")  # as the thread leaves it
    with pytest.raises(VaultDenied) as caught:
        vault.store_json("d/2.json", 2)
    assert "safe" in caught.value.__notes__[0]
    vault.store_json("d/3.json", 3)
    vault.flush()
    assert documents(hub) == {f"{number}.json": number for number in range(4)}


def test_a_document_that_is_refused_for_good_holds_up_no_other(hub: Hub, make: Make) -> None:
    vault = make()
    vault.store_json("d/0.json", 0)
    hub.entries_a_folder = 8
    for number in range(8):
        vault.store_json(f"full/{number}.json", number)
    vault.flush()
    vault.store_json("full/one-too-many.json", 1)
    for number in range(1, 6):
        vault.store_json(f"d/{number}.json", number)
    vault.flush()
    assert len(documents(hub)) == 6
    waiting = vault.pending()
    assert (waiting.count, waiting.refused) == (0, 1)


def test_a_home_that_cannot_be_written_is_told_at_once(
    hub: Hub, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file where a folder is needed")
    vault = make()
    for call in (
        lambda: vault.store_json("a.json", 1),
        lambda: vault.append_metrics([row(1)]),
        lambda: vault.flush(),
    ):
        with pytest.raises(VaultError) as caught:
            call()
        assert not isinstance(caught.value, VaultUnavailable)
    assert len(hub.history) == 1


def start(hub: Hub, home: Path, seconds: float, first: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.children.spool_child", hub.url, str(home)),
            *(str(seconds), str(first), str(count)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.mark.parametrize("after", [1, 6, 15])
def test_a_kill_loses_and_doubles_nothing_that_was_taken(
    hub: Hub, make: Make, tmp_path: Path, after: int
) -> None:
    child = start(hub, tmp_path / "home", LONG, 0, 1000)
    assert child.stdout is not None
    for _ in range(after):
        child.stdout.readline()
    child.kill()
    taken = after + len(child.communicate()[0].splitlines())
    vault = make()
    assert vault.fetch_json(f"d/{taken - 1}.json") == taken - 1
    # at the first use, and without being asked
    vault.store_json("e.json", 1)
    vault.flush()
    found = documents(hub)
    rows = videos(vault)
    assert found.items() >= {f"{number}.json": number for number in range(taken)}.items()
    assert len(found) <= taken + 1
    assert len(rows) == len(set(rows)) <= taken + 1
    assert set(rows) >= {f"v{number}" for number in range(taken)}


def test_a_kill_while_the_commit_is_under_way_doubles_nothing(
    hub: Hub, make: Make, tmp_path: Path
) -> None:
    child = start(hub, tmp_path / "home", 0.3, 0, 12)
    hub.before["commit"].extend([lambda: None, child.kill])
    child.communicate(timeout=60)
    assert child.returncode < 0
    vault = make()
    vault.flush()
    found = videos(vault)
    assert len(found) == len(set(found))
    assert vault.pending().count == 0


def test_a_program_that_ends_delivers_what_it_left_waiting(hub: Hub, tmp_path: Path) -> None:
    child = start(hub, tmp_path / "home", LONG, 0, 20)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert len(out.splitlines()) == 20
    assert len(documents(hub)) == 20
    assert sum(path.startswith("run/metrics/") for path in hub.files) == 20
    # one call by itself, then documents and rows
    assert len(hub.history) == 4, err


def test_two_processes_and_two_machines_lose_and_double_nothing(
    hub: Hub, make: Make, tmp_path: Path
) -> None:
    hub.commits_an_hour = 10_000
    children = [
        start(hub, tmp_path / home, 0.1, first, 30)
        for home, first in (("home", 0), ("home", 20), ("far", 10), ("far", 30))
    ]
    for child in children:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    for home in ("home", "far"):
        make(home=home).flush()
    vault = make()
    rows = videos(vault)
    assert sorted(set(rows)) == sorted(f"v{number}" for number in range(60))
    # two machines may both have had a row: it is one object, named by what is in it
    assert len(rows) == 60
    assert documents(hub) == {f"{number}.json": number for number in range(60)}


def test_a_call_does_not_list_what_waits(
    hub: Hub, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = make()
    vault.store_json("d/0.json", 0)
    vault.append_metrics([row(0)])

    def listed(*_: object) -> None:
        raise AssertionError("a call listed the spool")

    spool = vault._spool()
    for owner, name in ((spool, "_waiting"), (spool.documents, "waiting")):
        monkeypatch.setattr(owner, name, listed)
    for number in range(1, 4):
        vault.store_json(f"d/{number}.json", number)
        vault.append_metrics([row(number)])
        assert vault.fetch_json(f"d/{number}.json") == number


def test_deliveries_leave_commits_for_the_archive() -> None:
    pace = Pace.of_commits(60, 100)
    assert pace.gap == pace.seconds == 90
    assert 2 * 3600 / pace.gap <= 80
    assert Pace.of_commits(600, 100) == Pace(600, 90)
    assert Pace.of_commits(0, 100) == Pace()
