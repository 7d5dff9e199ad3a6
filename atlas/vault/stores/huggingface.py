"""A dataset repository of the Hugging Face Hub as a store.

Writes are commits with ``parent_commit``: atomic for any number of files, refused when another writer was
first. fsspec's HfFileSystem makes one commit a file and knows no parent, so that it only reads here, pinned
to a commit (its listings and those of a branch go stale after another writer's commit).
"""

from __future__ import annotations

import contextlib
import io
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from atlas.errors import VaultError, VaultUnavailable
from atlas.logging import get_logger
from atlas.types import ObjectInfo
from atlas.vault.layout import CARD, check_folder, check_key
from atlas.vault.stores.base import FsspecStore, Source, local_copy, taken
from atlas.vault.stores.commits import CommitBudget
from atlas.vault.stores.hub_errors import raise_translated, status_of
from atlas.vault.stores.hub_layout import candidates, completed_card, logical, sharded

log = get_logger(__name__)

#: Tries of a commit whose parent another writer's commit made stale.
_ROUNDS = 8
#: Seconds to wait for the repository's head, or for the next bytes.
_TIMEOUT = 30.0
_LIBRARY = "pleiades-atlas"


class HuggingFaceStore(FsspecStore):
    """Files of a dataset repository, under a prefix. ``endpoint`` is another Hub than huggingface.co.

    Above ``budget`` a write raises `VaultUnavailable` before anything is sent. With ``card`` the first
    commit that adds files sees to it that the dataset card names the tables.
    """

    #: The Hub asks for 50 to 100 files a commit.
    batch = 50

    def __init__(
        self,
        repo_id: str,
        prefix: str = "",
        *,
        token: str | None = None,
        endpoint: str | None = None,
        budget: CommitBudget | None = None,
        card: bool = False,
    ) -> None:
        prefix = check_folder(prefix)
        root = f"hf://datasets/{repo_id}"
        super().__init__(
            f"{root}/{prefix}" if prefix else root, f"{root}/{prefix}/".rstrip("/") + "/"
        )
        self._repo, self._prefix = repo_id, f"{prefix}/" if prefix else ""
        # False: never a token that happens to lie on this machine
        self._token: str | bool = token or False
        self._endpoint = endpoint
        self._budget = budget
        self._card_due = card

    @cached_property
    def api(self) -> Any:
        """The Hub's client."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils.tqdm import disable_progress_bars

        # the client reports nothing of its own to anybody, whichever Hub is used
        constants.HF_HUB_DISABLE_TELEMETRY = True
        if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:  # nobody has chosen
            disable_progress_bars()
        return HfApi(endpoint=self._endpoint, token=self._token, library_name=_LIBRARY)

    @cached_property
    def fs(self) -> Any:
        """The file system of huggingface_hub, which only reads; its cache is nobody else's."""
        from huggingface_hub import HfFileSystem

        return HfFileSystem(
            endpoint=self._endpoint,
            token=self._token,
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def uri(self, key: str) -> str:
        """``hf://datasets/<repo>/<path>``, where the file lies."""
        return super().uri(sharded(check_key(key)))

    def stat(self, key: str) -> ObjectInfo | None:
        """Size of the file at the repository's head and the time of its last commit, or None."""
        key = check_key(key)
        with self._translated(key):
            found = self._file(key, self._head(), expand=True)
        if found is None:
            return None
        return ObjectInfo(key, found.size, found.last_commit and found.last_commit.date)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every file under the folder at one commit, in key order; without times, which cost a page
        of 50 files each."""
        from huggingface_hub import RepoFile
        from huggingface_hub.errors import EntryNotFoundError

        prefix = check_folder(prefix)
        with self._translated(prefix):
            head = self._head()
            try:
                found = {
                    entry.path: entry.size
                    for entry in self.api.list_repo_tree(
                        self._repo,
                        (self._prefix + prefix).rstrip("/") or None,
                        recursive=True,
                        revision=head,
                        repo_type="dataset",
                    )
                    if isinstance(entry, RepoFile) and entry.path != CARD
                }
            except EntryNotFoundError:
                return
        folder = f"{prefix}/" if prefix else ""
        infos: dict[str, ObjectInfo] = {}
        # flat ones first: where an object lies in both places the other is the later one
        for path in sorted(found, key=lambda path: path.count("/")):
            key = logical(path.removeprefix(self._prefix))
            if key.startswith(folder) and not key.rsplit("/", 1)[-1].startswith("."):
                infos[key] = ObjectInfo(key, found[path])
        yield from (infos[key] for key in sorted(infos))

    def put_files(self, items: Sequence[tuple[str, Path]]) -> None:
        """Create every object in one commit, or none. Raises `ObjectExists` when a key is taken."""
        files = {check_key(key): path for key, path in items}
        for path in files.values():
            path.stat()  # the client's own error for a missing file says less
        if files:
            self._commit(f"Add {len(files)} files", files, create=True)

    def put_many(self, items: Sequence[tuple[str, BinaryIO]]) -> None:
        """Write every object in one commit, replacing what is there."""
        with ExitStack() as stack:
            files = {
                check_key(key): stack.enter_context(local_copy(source)) for key, source in items
            }
            if files:
                self._commit(f"Write {len(files)} files", files)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects in one commit; those already gone are no error."""
        wanted = [check_key(key) for key in keys]
        if wanted:
            self._commit(f"Delete {len(wanted)} files", dict.fromkeys(wanted))

    def compare_and_swap(self, key: str, expected: bytes | None, new: bytes) -> bool:
        """Replace the object only if its content is ``expected``, by the commit it was read at."""
        key = check_key(key)
        with local_copy(io.BytesIO(new)) as path:
            for _ in range(_ROUNDS):
                with self._translated(key):
                    head = self._head()
                    if self._read(key, head) != expected:
                        return False
                    if self._commit_on(head, f"Swap {key}", {self._path(key): path}):
                        return True
        raise self._busy(key)

    def _create(self, key: str, source: BinaryIO) -> None:
        with local_copy(source) as path:
            self.put_files([(key, path)])

    def _open(self, key: str) -> Source:
        head = self._head()
        found = self._file(key, head)
        if found is None:
            raise FileNotFoundError(key)
        return Source.of_file(self._pinned(found.path, head))

    def _pinned(self, path: str, head: str) -> Any:
        return self.fs.open(f"datasets/{self._repo}@{head}/{path}", "rb", cache_type="none")

    def _open_known(self, key: str, size: int) -> Source:
        # HfFileSystem lists the folder before each read; names that are never used again need no commit
        from huggingface_hub import hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in __all__
            build_hf_headers,
            hf_raise_for_status,
            http_backoff,
        )

        path = self._path(key)
        url = hf_hub_url(self._repo, path, repo_type="dataset", endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token, library_name=_LIBRARY)

        def fetch(start: int, end: int) -> bytes:
            ranged = headers | {"range": f"bytes={start}-{end - 1}"}
            response = http_backoff("GET", url, headers=ranged, timeout=_TIMEOUT)
            try:
                hf_raise_for_status(response)
            except EntryNotFoundError:
                raise FileNotFoundError(
                    key
                ) from None  # `_translated` judges by the status of a cause
            return bytes(response.content)

        return Source(size, fetch, seen=False)

    def _read(self, key: str, head: str) -> bytes | None:
        found = self._file(key, head)
        if found is None:
            return None
        with self._pinned(found.path, head) as file:
            data: bytes = file.read()
        return data

    def _head(self) -> str:
        info = self.api.repo_info(self._repo, repo_type="dataset", timeout=_TIMEOUT)
        return str(info.sha)

    def _path(self, key: str) -> str:
        """Where the object of a key is written in the repository."""
        return self._prefix + sharded(key)

    def _file(self, key: str, head: str, *, expand: bool = False) -> Any | None:
        """The Hub's record of the file of a key at this commit, or None."""
        paths = [self._prefix + path for path in candidates(key)]
        found = self._files(paths, head, expand=expand)
        return next((found[path] for path in paths if path in found), None)

    def _files(self, paths: Iterable[str], head: str, *, expand: bool = False) -> dict[str, Any]:
        """The Hub's record of each path that is a file at this commit."""
        from huggingface_hub import RepoFile

        found = self.api.get_paths_info(
            self._repo, list(paths), revision=head, repo_type="dataset", expand=expand
        )
        return {entry.path: entry for entry in found if isinstance(entry, RepoFile)}

    def _commit(self, message: str, files: dict[str, Any], *, create: bool = False) -> None:
        """Commit on the head as it is, again on the next one while other writers are first.

        A None for a path deletes the key, if it is there.
        """
        name = next(iter(files))
        places = {key: [self._prefix + path for path in candidates(key)] for key in files}
        # a person's own card is completed by the commit after his
        card = self._card_due and any(files.values()) and CARD not in map(self._path, files)
        for _ in range(_ROUNDS):
            with self._translated(name):
                head = self._head()
                wanted = [path for paths in places.values() for path in paths]
                there = self._files([*wanted, CARD] if card else wanted, head)
                todo: dict[str, Any] = {}
                for key, (place, *others) in places.items():
                    if create and not there.keys().isdisjoint([place, *others]):
                        raise taken(key)
                    todo[place] = files[key]
                    todo.update(dict.fromkeys(others))
                todo = {path: source for path, source in todo.items() if source or path in there}
                if card and (text := self._completed_card(CARD in there, head)):
                    todo[CARD] = text.encode()
                if not todo or self._commit_on(head, message, todo):
                    self._card_due = self._card_due and not card
                    return
        raise self._busy(name)

    def _completed_card(self, is_there: bool, head: str) -> str | None:
        """The card as it is to be, None if it is so already."""
        text = None
        if is_there:
            with self._pinned(CARD, head) as file:
                text = file.read().decode(errors="replace")
        return completed_card(text, self._prefix)

    def _commit_on(self, head: str, message: str, files: dict[str, Any]) -> bool:
        """One commit, or none if ``head`` is as wanted; a lost answer is settled by looking.

        ``files`` has a local path, bytes or None (delete) by path in the repository. False: ``head`` is no
        longer the head.
        """
        from huggingface_hub import CommitOperationDelete
        from huggingface_hub.errors import HfHubHTTPError

        mark = uuid.uuid4().hex
        operations = [
            CommitOperationDelete(path) if source is None else _addition(path, source)
            for path, source in files.items()
        ]
        if self._budget is not None:
            self._budget.take()
        try:
            self._upload_at_exit(operations)
            made = self.api.create_commit(
                self._repo,
                operations,
                commit_message=message,
                commit_description=f"atlas-put {mark}",
                repo_type="dataset",
                parent_commit=head,
            )
        except Exception as error:
            status = status_of(error)
            if status in (409, 412):
                return False
            if isinstance(error, HfHubHTTPError) and status is not None and status < 500:
                raise
            log.warning("commit_answer_lost", repo=self._repo, error=type(error).__name__)
            if self._head() == head or not self._has_commit(mark):
                raise
            return True
        # files that are already as wanted make no commit, and no check of the parent
        return made.oid == head or any(
            getattr(operation, "_is_committed", True) for operation in operations
        )

    def _upload_at_exit(self, operations: Sequence[Any]) -> None:
        """Upload one by one while the program ends: the client cannot start its threads any more."""
        if not threading.main_thread().is_alive():
            for operation in operations:
                if operation.path_in_repo.endswith(".parquet") and hasattr(
                    operation, "upload_info"
                ):
                    self.api.preupload_lfs_files(self._repo, [operation], repo_type="dataset")

    def _has_commit(self, mark: str) -> bool:
        """Whether our commit is in the history. Files are no proof: another writer's may be the same."""
        commits = self.api.list_repo_commits(self._repo, repo_type="dataset")
        return any(mark in f"{commit.title} {commit.message}" for commit in commits)

    def _busy(self, key: str) -> VaultUnavailable:
        return VaultUnavailable(f"{self._repo}: other writers were first {_ROUNDS} times", path=key)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        try:
            yield
        except VaultError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and status_of(error) is None:
                raise
            raise_translated(error, key, self._repo, self.api.endpoint)


def _addition(path_in_repo: str, source: Path | bytes) -> Any:
    """A file of a commit; FileNotFoundError, where the client has a ValueError, if it is gone."""
    from huggingface_hub import CommitOperationAdd

    try:
        return CommitOperationAdd(
            path_in_repo, source if isinstance(source, bytes) else str(source)
        )
    except ValueError:
        if isinstance(source, Path):
            source.stat()
        raise
