"""What is on its way to the vault: on this machine's disk until the store has it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from atlas.errors import ObjectExists, VaultError, VaultUnavailable
from atlas.logging import get_logger
from atlas.types import ObjectInfo, ObjectStore
from atlas.vault import files
from atlas.vault.layout import metrics_folder
from atlas.vault.metrics import MetricsFile
from atlas.vault.spool.documents import Documents
from atlas.vault.spool.repeats import REMEMBERED_DAYS, Repeats, forget_days

log = get_logger(__name__)

#: Temporary files older than this were left by a crash.
_STALE_SECONDS = 86_400
#: Folder and name of a file, in one name.
_NAME = re.compile(r"(\d{4}-\d\d-\d\d)_(\d\d)_(-?\d+--?\d+-[0-9a-f]+\.parquet)")
#: The key that it has in the store.
_KEY = re.compile(r"metrics/date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/(-?\d+--?\d+-[0-9a-f]+\.parquet)")


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits for the store: files, their bytes, and when the oldest was written.

    ``documents`` of the files are documents, the others are rows. ``refused`` more documents are kept that
    the store will not take.
    """

    count: int
    bytes: int
    oldest: datetime | None
    documents: int = 0
    refused: int = 0


class Spool:
    """What waits for one vault, under ``home/spool/<digest of its identity>``.

    ``documents`` are a matter of their own.

    ``pending`` holds finished Parquet files, named by what is in them; ``delivered/<date>`` holds an empty
    file for each that the store has had within a week, so that a repeated call adds nothing even after
    compaction took the object away; ``appended/<date>`` says in which order samples came. Any number of
    threads and processes may share a spool: delivery is create-only, and a file leaves ``pending`` only when
    the store has it.
    """

    def __init__(self, home: Path, identity: str) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder = home / "spool" / digest
        self._pending = self.folder / "pending"
        self._delivered = self.folder / "delivered"
        self._repeats = Repeats(self.folder / "appended")
        self.documents = Documents(self.folder / "documents")
        # one delivery at a time: who waits finds its files delivered together with those before
        self._lock = threading.Lock()

    def add(self, new: Sequence[MetricsFile]) -> list[str]:
        """Keep files on the disk, but for those delivered within a week; returns the names of new ones.

        Raises `VaultFull`, `VaultDenied` or `VaultError`; files before the one that failed are kept.
        """
        added = []
        today = datetime.now(UTC).date()
        for given in new:
            file = self._placed(given, today)
            if file is None:
                continue
            name = _name(file)
            if not self._knows(name):
                with files.raised_as_vault_error(str(self._pending)):
                    files.make_folder(self._pending)
                    staged = files.stage(self._pending, file.write)
                    try:
                        # replaced, not created: another process may just have written the same rows
                        files.replace(staged, self._pending / name)
                    finally:
                        staged.unlink(missing_ok=True)
                log.debug("metrics_spooled", key=file.key)
                added.append(name)
            self._repeats.note(file, today)
        return added

    def _placed(self, file: MetricsFile, today: date) -> MetricsFile | None:
        """The file under the name that its rows get after what came before; None: they are a repeat."""
        week = today.toordinal() // REMEMBERED_DAYS
        # what is not remembered any more may lie in the store, under the name of an earlier week
        names = [file.after(what) for what in (f"week {week}", f"week {week - 1}", "")]
        if not any(self._knows(_name(one)) for one in names):
            return names[0]
        changed = self._repeats.changed_since(file)
        return None if changed is None else file.after(changed)

    def _knows(self, name: str) -> bool:
        with files.raised_as_vault_error(str(self._pending)):
            return (self._pending / name).exists() or self._is_delivered(name)

    def deliver(self, store: ObjectStore, most: int | None = None) -> int:
        """Put up to ``most`` files that wait into the store; returns how many it has now that it had not.

        Raises `VaultError`; what was not delivered stays.
        """
        delivered = 0
        with self._lock:
            waiting = [path.name for path in self._waiting()][:most]
            # one atomic put each time: what one process takes back another must not count on
            batch = store.batch
            for start in range(0, len(waiting), batch):
                delivered += self.put(store, waiting[start : start + batch])
        return delivered

    def pending(self) -> Pending:
        """What waits now."""
        sizes, times = [], []
        documents = self.documents.waiting()
        for path in [*self._waiting(), *documents]:
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
                found = path.stat()
                sizes.append(found.st_size)
                times.append(found.st_mtime)
        oldest = datetime.fromtimestamp(min(times), UTC) if times else None
        refused = self.documents.refused()
        return Pending(len(sizes), sum(sizes), oldest, len(documents), refused)

    def get(self, key: str) -> bytes | None:
        """The content that waits under that key, or None."""
        if _KEY.fullmatch(key) is None:
            return self.documents.get(key)
        with files.raised_as_vault_error(key), contextlib.ExitStack() as stack:
            file = self.open_rows(key)
            return None if file is None else stack.enter_context(file).read()

    def open_rows(self, key: str) -> BinaryIO | None:
        """The rows that wait under that key, open for reading, or None. They stay readable when delivered."""
        match = _KEY.fullmatch(key)
        if match is None:
            return None
        with files.raised_as_vault_error(key):
            try:
                return (self._pending / "_".join(match.groups())).open("rb")
            except FileNotFoundError:
                return None

    def rows(self) -> list[ObjectInfo]:
        """The rows that wait, as the objects that they are going to be."""
        found = []
        for path in self._waiting():
            with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
                at = path.stat()
                modified = datetime.fromtimestamp(at.st_mtime, UTC)
                found.append(ObjectInfo(_key(path.name), at.st_size, modified))
        return found

    def keys(self) -> list[str]:
        """The keys under which something waits."""
        return [*(_key(path.name) for path in self._waiting()), *self.documents.keys()]

    def appended_here(self) -> bool:
        """Whether rows for this vault were ever appended on this machine."""
        # the newest day of deliveries is never forgotten, so that what was delivered leaves a trace
        return any(
            not path.name.startswith(".")
            for folder in (self._pending, self._delivered)
            if folder.is_dir()
            for path in folder.iterdir()
        )

    def _waiting(self) -> list[Path]:
        with files.raised_as_vault_error(str(self._pending)):
            try:
                entries = sorted(self._pending.iterdir())
            except FileNotFoundError:
                return []
            for path in entries:
                if path.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
                            path.unlink()
        return [path for path in entries if _NAME.fullmatch(path.name)]

    def put(self, store: ObjectStore, names: Sequence[str]) -> int:
        """Deliver files in one call of the store; those that it has already need no second one."""
        left = {_key(name): name for name in names if (self._pending / name).exists()}
        had = 0
        while left:
            try:
                store.put_files([(key, self._pending / name) for key, name in left.items()])
            except ObjectExists as error:
                # the name says what is in it: put by a call that died, or by another process
                if error.path not in left:
                    raise
                self._done(left.pop(error.path))
                had += 1
            except FileNotFoundError:
                # another process delivered one of them and took it away
                there = {key: name for key, name in left.items() if (self._pending / name).exists()}
                if there == left:
                    raise
                left = there
            else:
                log.debug("metrics_delivered", files=len(left))
                for name in left.values():
                    self._done(name)
                return len(left)
        return 0

    def _done(self, name: str) -> None:
        with files.raised_as_vault_error(str(self._delivered)):
            today = self._delivered / datetime.now(UTC).date().isoformat()
            if not today.exists():
                files.make_folder(today)
                forget_days(self._delivered, datetime.now(UTC).date())
            # remembered before it leaves: a crash between the two repeats a put, which finds the object
            (today / name).touch(mode=0o600)
            (self._pending / name).unlink(missing_ok=True)

    def _is_delivered(self, name: str) -> bool:
        today = datetime.now(UTC).date()
        # a day ahead as well: another process may be past midnight
        return any(
            (self._delivered / (today - timedelta(days=back)).isoformat() / name).exists()
            for back in range(-1, REMEMBERED_DAYS + 1)
        )


def _name(file: MetricsFile) -> str:
    return f"{file.day.isoformat()}_{file.hour:02}_{file.name}"


def _key(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None
    day, hour, rest = match.groups()
    return f"{metrics_folder(date.fromisoformat(day), int(hour))}/{rest}"


def deliver_or_keep(spool: Spool, store: ObjectStore) -> None:
    """Deliver; where the store does not answer, log it and leave the files for the next call.

    Other failures need a hand, and are raised with a note that the rows are safe.
    """
    try:
        spool.deliver(store)
    except VaultUnavailable as error:
        waiting = spool.pending()
        log.warning(
            "metrics_wait_in_spool",
            vault=store.identity,
            files=waiting.count,
            bytes=waiting.bytes,
            oldest=None if waiting.oldest is None else waiting.oldest.isoformat(),
            error=type(error).__name__,
        )
    except VaultError as error:
        error.add_note(f"the rows are safe in {spool.folder} and are delivered by a later call")
        raise
