"""How the Hugging Face store commits, against a repository in memory in the client's place."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, RepoFile
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from atlas.errors import ObjectExists, VaultDenied, VaultError, VaultFull, VaultUnavailable
from atlas.vault import Vault
from atlas.vault.stores.huggingface import HuggingFaceStore


def refusal(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://hub.invalid/api")
    return kind("refused", response=httpx2.Response(status, request=request))


class Repository:
    """What `HfApi` and `HfFileSystem` do with one dataset; something may happen after a
    look at files, and before and after a commit."""

    endpoint = "https://hub.invalid"

    def __init__(self) -> None:
        self.history: list[tuple[str, str, dict[str, bytes]]] = [("0", "initial", {})]
        self.looked: list[Any] = []
        self.before: list[Any] = []
        self.after: list[Any] = []

    def repo_info(self, repo: str, **_: Any) -> Any:
        return SimpleNamespace(sha=self.history[-1][0])

    def at(self, revision: str) -> dict[str, bytes]:
        return next(files for sha, _, files in self.history if sha == revision)

    def get_paths_info(
        self, repo: str, paths: list[str], *, revision: str, **_: Any
    ) -> list[RepoFile]:
        files = self.at(revision)
        for hook in (self.looked.pop(0),) if self.looked else ():
            hook()
        return [self.record(path, files[path]) for path in paths if path in files]

    def list_repo_tree(
        self, repo: str, folder: str | None, *, revision: str, **_: Any
    ) -> Iterator[RepoFile]:
        files = self.at(revision)
        found = [path for path in files if folder is None or path.startswith(f"{folder}/")]
        if not found and folder is not None:
            raise refusal(404, RemoteEntryNotFoundError)
        return (self.record(path, files[path]) for path in reversed(found))

    def record(self, path: str, content: bytes) -> RepoFile:
        return RepoFile(path=path, size=len(content), oid=hashlib.sha1(content).hexdigest())

    def list_repo_commits(self, repo: str, **_: Any) -> list[Any]:
        return [SimpleNamespace(title="", message=message) for _, message, _ in self.history]

    def create_commit(
        self,
        repo: str,
        operations: list[Any],
        *,
        commit_message: str,
        commit_description: str,
        parent_commit: str,
        **_: Any,
    ) -> Any:
        for hook in (self.before.pop(0),) if self.before else ():
            hook()
        if parent_commit != self.history[-1][0]:
            raise refusal(412)
        files = dict(self.history[-1][2])
        for operation in operations:
            if isinstance(operation, CommitOperationAdd):
                with operation.as_file() as file:
                    files[operation.path_in_repo] = file.read()
            else:
                del files[operation.path_in_repo]
        self.commit(files, commit_description)
        for hook in (self.after.pop(0),) if self.after else ():
            hook()
        for operation in operations:
            operation._is_committed = True
        return SimpleNamespace(oid=self.history[-1][0])

    def commit(self, files: dict[str, bytes], message: str = "somebody else") -> None:
        self.history.append((str(len(self.history)), message, files))

    def open(self, path: str, mode: str, **_: Any) -> io.BytesIO:
        repository, _, key = path.partition("@")
        revision, _, key = key.partition("/")
        assert repository == "datasets/me/data"
        return io.BytesIO(self.at(revision)[key])


def raising(error: Exception) -> Any:
    def hook() -> None:
        raise error

    return hook


@pytest.fixture
def hub() -> Repository:
    return Repository()


@pytest.fixture
def vault(hub: Repository, tmp_path: Path) -> Vault:
    store = HuggingFaceStore("me/data", "pre")
    store.api = store.fs = hub
    return Vault(store, tmp_path / "home")


def test_documents_and_listings_are_read_at_one_commit(vault: Vault, hub: Repository) -> None:
    uri = vault.store_json("a/ü.json", [1])
    assert uri == "hf://datasets/me/data/pre/a/ü.json"
    assert list(hub.history[-1][2]) == ["pre/a/ü.json"]
    vault.store_binary("a/b", b"")
    hub.commit({**hub.history[-1][2], "elsewhere": b"", "pre/.gitattributes": b""})
    assert vault.list_files() == ["a/b", "a/ü.json"]
    assert vault.list_files("absent") == []
    assert vault.fetch_json(uri) == [1]
    assert vault.fetch_binary("absent") is None
    found = vault.store.stat("a/ü.json")
    assert found is not None
    assert found.size == 3


def test_many_files_are_one_commit(vault: Vault, hub: Repository) -> None:
    vault.store_batch({f"{n}.json": n for n in range(60)})
    assert len(hub.history) == 2
    vault.store.delete(["1.json", "2.json", "absent"])
    assert len(hub.history) == 3
    vault.store.delete(["absent"])
    assert len(hub.history) == 3
    assert len(vault.list_files()) == 58


def test_metrics_of_many_hours_are_one_commit(vault: Vault, hub: Repository) -> None:
    rows = [{"video_id": "V", "timestamp": f"2026-01-15T{hour:02}:00:00Z"} for hour in range(24)]
    assert vault.append_metrics(rows) == 24
    assert len(hub.history) == 2
    assert vault.append_metrics(rows) == 0
    assert len(hub.history) == 2


def test_a_commit_is_made_again_on_the_head_of_another_writer(
    vault: Vault, hub: Repository
) -> None:
    hub.before = [lambda: hub.commit({"other": b"1"})]
    vault.store_json("a.json", 1)
    assert hub.history[-1][2] == {"other": b"1", "pre/a.json": b"1"}


def test_a_name_that_another_writer_took_meanwhile_is_not_replaced(
    vault: Vault, hub: Repository
) -> None:
    hub.before = [lambda: hub.commit({"pre/x": b"theirs"})]
    with pytest.raises(ObjectExists) as caught:
        vault.store.put_bytes("x", b"mine", overwrite=False)
    assert caught.value.path == "x"
    assert hub.history[-1][2] == {"pre/x": b"theirs"}


def test_a_commit_has_for_parent_what_was_looked_at(vault: Vault, hub: Repository) -> None:
    hub.looked = [lambda: hub.commit({"pre/x": b"theirs"})]
    with pytest.raises(ObjectExists):
        vault.store.put_bytes("x", b"mine", overwrite=False)
    hub.looked = [lambda: hub.commit({"pre/x": b"theirs again"})]
    assert not vault.store.compare_and_swap("x", b"theirs", b"mine")
    assert hub.history[-1][2] == {"pre/x": b"theirs again"}


def test_a_commit_whose_answer_was_lost_counts_as_made(vault: Vault, hub: Repository) -> None:
    for error in (httpx2.ReadError("lost"), httpx2.ReadTimeout("late"), refusal(503)):
        hub.after = [raising(error)]
        vault.store.put_bytes("x", b"1", overwrite=False)
        assert len(hub.history) % 2 == 0
        vault.store.delete(["x"])


def test_a_commit_that_was_not_made_is_an_error_not_made_again(
    vault: Vault, hub: Repository
) -> None:
    hub.before = [raising(httpx2.ConnectError("down"))]
    with pytest.raises(VaultUnavailable):
        vault.store_json("x", 1)
    # somebody else wrote the same in the meantime: not ours all the same
    hub.before = [lambda: (hub.commit({"pre/x": b"1"}), raising(refusal(500))())]
    with pytest.raises(VaultUnavailable):
        vault.store.put_bytes("x", b"1", overwrite=False)
    assert len(hub.history) == 2


def test_a_swap_that_another_writer_made_with_the_same_content_is_not_ours(
    vault: Vault, hub: Repository
) -> None:
    swap = vault.store.compare_and_swap
    assert swap("n", None, b"1")
    hub.before = [lambda: hub.commit({"pre/n": b"2"})]
    assert not swap("n", b"1", b"2")
    assert not swap("n", None, b"3")
    hub.before = [lambda: hub.commit({"pre/n": b"2", "other": b""})]
    assert swap("n", b"2", b"3")
    assert hub.history[-1][2] == {"pre/n": b"3", "other": b""}


def test_writers_that_are_always_first_end_in_an_error(vault: Vault, hub: Repository) -> None:
    hub.before = [lambda: hub.commit({})] * 20
    with pytest.raises(VaultUnavailable):
        vault.store_json("x", 1)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (refusal(401), VaultDenied),
        (refusal(403), VaultDenied),
        (refusal(401, RepositoryNotFoundError), VaultDenied),
        (refusal(413), VaultFull),
        (refusal(429), VaultUnavailable),
        (refusal(500), VaultUnavailable),
        (httpx2.ConnectError("down"), VaultUnavailable),
        (refusal(400), VaultError),
    ],
)
def test_what_the_hub_refuses_is_told_by_what_can_be_done(
    error: Exception, wanted: type[VaultError], vault: Vault, hub: Repository
) -> None:
    hub.repo_info = lambda *_, **__: raising(error)()  # the Hub fails
    for call in (
        lambda: vault.fetch_json("x"),
        lambda: vault.list_files(),
        lambda: vault.store_json("x", 1),
        lambda: vault.store.stat("x"),
    ):
        with pytest.raises(wanted) as caught:
            call()
        assert type(caught.value) is wanted
