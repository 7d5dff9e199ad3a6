"""What several processes that work on one vault can rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atlas.vault import Vault
from atlas.vault.stores.gcs import GCSStore
from tests.support.places import Place
from tests.support.servers.gcs_proxy import Gcs
from tests.support.servers.http import Reply
from tests.support.servers.hub_server import Hub
from tests.support.stores import close

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a child on a place; all are gone at the end."""
    children: list[subprocess.Popen[str]] = []

    def start(place: Place, *job: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.support.children.place_child", place.text(), *job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def here(place: Place) -> Iterator[Vault]:
    """The vault at the place, for this process."""
    vault = place.vault()
    yield vault
    if isinstance(vault.store, GCSStore):
        close(vault.store)


def finish(child: subprocess.Popen[str], said: str | None = None) -> str:
    """Wait for its end, which must be a good one; gives what it printed."""
    out, err = child.communicate(said, timeout=120)
    assert child.returncode == 0, err
    return out


def test_of_two_processes_that_create_one_object_one_wins(
    place: Place, here: Vault, start: Start
) -> None:
    children = [start(place, "create", "25") for _ in range(2)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    won = {child.pid: {int(line) for line in finish(child).split()} for child in children}
    first, second = won.values()
    assert first | second == set(range(25))
    assert not first & second
    for pid, numbers in won.items():
        for number in numbers:
            assert here.store.get_bytes(f"race/{number}") == b"%d" % pid


def test_what_two_processes_append_to_one_hour_is_there_once(
    place: Place, here: Vault, start: Start
) -> None:
    """They share a spool, and half of the rows are the same."""
    children = [start(place, "append", first, "8") for first in ("0", "4")]
    for child in children:
        finish(child)
    assert here.pending().count == 0
    found = [
        video
        for key in here.list_files("metrics")
        for video in pq.read_table(here.fetch_binary(key), columns=["video_id"])[0].to_pylist()
    ]
    assert sorted(found) == sorted(f"v{number}" for number in range(12))


# gcsfs hands aiohttp its pieces as bytes, which warns above a megabyte
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_an_upload_whose_process_dies_leaves_nothing_and_the_name_free(
    place: Place, here: Vault, start: Start, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if place.provider == "local":
        pytest.skip("has a test of its own: a writer that is killed in the middle of a file")
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 80_000)
    child = start(place, "upload", str(path))
    server: Any = request.getfixturevalue("gcs" if place.provider == "gcs" else "hub")
    assert isinstance(server, Gcs | Hub)

    def die() -> None:
        child.kill()
        child.wait()

    # Google: the second piece of a session; the Hub: after the content, before the commit that shows it
    if isinstance(server, Gcs):
        server.before["chunk"].extend([lambda: None, die])
    else:
        server.before["commit"].append(die)
        server.faults["commit"].append(Reply(cut=True))
    child.communicate(timeout=120)
    assert child.returncode < 0
    assert here.list_files() == []
    assert here.store.stat("large") is None
    here.store.put_files([("large", path)])
    assert here.store.get_bytes("large") == path.read_bytes()
