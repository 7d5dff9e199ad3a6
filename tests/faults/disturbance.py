"""What befalls a job of the archive at one call of its store, and the jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from atlas.archive import Archiver
from atlas.errors import CorruptObject, VaultUnavailable, VerificationFailed
from atlas.janitor import Janitor
from atlas.vault import Vault
from tests.support.faulty_store import Fault, Faults, FaultyStore
from tests.support.histories import WEEK
from tests.support.samples import OLD, Counters, Key
from tests.support.sql import execute

STORE_FAULTS = (
    Fault.REFUSE,
    Fault.LOSE_ANSWER,
    Fault.LATE,
    Fault.HALF,
    Fault.BREAK_OFF,
    Fault.MISREAD,
)
#: What a job may raise for the store's sake.
STORE_ERRORS = (VaultUnavailable, VerificationFailed, CorruptObject)
#: What may happen next, by how often.
STEPS = {
    "write": 6,
    "append": 3,
    "archive": 6,
    "compact": 5,
    "gc": 4,
    "restore": 1,
    "release": 1,
    "forget": 2,
    "janitor": 1,
    "move": 0.5,
    "backup": 2,
    "go_back": 3,
    "copy": 3,
    "lose": 0.7,
}
JOBS = ("archive", "compact", "gc", "restore", "release", "forget", "janitor")
_SPAN = (OLD, OLD + timedelta(hours=12))


class Died(BaseException):
    """The process is no more."""


class Disturbed(FaultyStore):
    """A store at whose ``at``-th call something happens, before it or ``after`` it was carried out."""

    batch = 4

    def __init__(
        self, vault: Vault, faults: Faults, at: int, happens: Callable[[], None], *, after: bool
    ) -> None:
        super().__init__(vault.store, faults)
        self.at, self.happens, self.after, self.calls = at, happens, after, 0
        self._counting = threading.Lock()

    def _call(self, method: str, key: str, work: Any) -> Any:
        with self._counting:
            self.calls += 1
            now = self.calls == self.at
        if now and not self.after:
            self.happens()
        answer = super()._call(method, key, work)
        if now and self.after:
            self.happens()
        return answer

    def put_files(self, items: Any) -> None:
        for item in items:  # each may be the last one that is put
            super().put_files([item])


@dataclass
class Copy:
    """A copy of the database, and the hot samples in it."""

    url: str
    hot: dict[Key, Counters]


async def run_job(job: str, archiver: Archiver, victim: str, number: int) -> None:
    """A job by its name: ``victim`` is forgotten, and the janitor finds video ``number``."""
    match job:
        case "forget":
            await archiver.forget([victim])
        case "archive":
            await archiver.run(WEEK)
        case "compact":
            await archiver.compact()
        case "gc":
            await archiver.collect_garbage(timedelta(0))
        case "restore":
            await archiver.restore(*_SPAN)
        case "release":
            await archiver.release()
        case "janitor":
            await execute(
                archiver.database,
                "INSERT INTO videos (id, title, status, has_transcript, has_visuals, discovered_at) "
                f"VALUES ('doomed-{number}', 'A title', 'DONE', true, true, "
                "now() - interval '30 days') ON CONFLICT DO NOTHING",
            )
            await Janitor(archiver.database, archiver._vault).run()
        case _:
            raise AssertionError(job)
