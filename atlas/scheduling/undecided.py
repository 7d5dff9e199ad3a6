"""Ids that may lie in the schedule's files, which are read between transactions; see docs/forever.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from atlas.errors import ConfigurationError, VaultError
from atlas.events import bus_of
from atlas.logging import get_logger
from atlas.reading.schedule import ScheduleReader
from atlas.repositories.ledger.schedule import ScheduleFiles
from atlas.repositories.ring.membership import Answers
from atlas.types import ReadableStore
from atlas.vault.offload import offload

if TYPE_CHECKING:
    from atlas.db import Database

log = get_logger(__name__)

#: Times that files are read for the same ids: they may be replaced meanwhile.
_ROUNDS = 3
#: Seconds that reading may take, and those for which the vault is left alone where it did not answer.
_PATIENCE, _REST = 30.0, 30.0

#: Until when the vault of a database is left alone, by this process's clock.
rests: WeakKeyDictionary[Database, float] = WeakKeyDictionary()

#: Ids with the cohorts whose files may have them.
Undecided = Mapping[str, frozenset[int]]
#: A transaction for the ids given (None: all of them), which returns those that it left out as undecided.
Attempt = Callable[[Collection[str] | None, Answers | None], Awaitable[Undecided]]


async def until_decided(
    database: Database, store: Callable[[], ReadableStore], attempt: Attempt
) -> frozenset[str]:
    """Run ``attempt``, and again for the ids that it left out, once their files were read.

    Returns those that are undecided still, because the vault cannot be read; they are counted in the log and
    in the event ``watchlist.undecided``.
    """
    undecided = await attempt(None, None)
    why = "files are lost or damaged, or were replaced each time"
    for _ in range(_ROUNDS):
        if not undecided:
            return frozenset()
        if time.monotonic() < rests.get(database, 0.0):
            why = "the vault did not answer a moment ago"
            break
        try:
            async with asyncio.timeout(_PATIENCE):
                answers = await _answers(database, store, undecided)
        except (ConfigurationError, VaultError, TimeoutError) as error:
            why = str(error) or f"the vault did not answer within {_PATIENCE:.0f} seconds"
            rests[database] = time.monotonic() + _REST
            break
        undecided = await attempt(undecided.keys(), answers)
    if undecided:
        undecided = await attempt(undecided.keys(), Answers(is_away=True))
    if undecided:
        log.warning("videos_undecided", videos=len(undecided), reason=why)
        facts = {"videos": len(undecided), "reason": why}
        await bus_of(database).emit("watchlist.undecided", payload=facts)
    return frozenset(undecided)


async def _answers(
    database: Database, store: Callable[[], ReadableStore], undecided: Undecided
) -> Answers:
    async with database.transaction(read_only=True) as session:
        files = await ScheduleFiles(session).by_cohort()
    return await offload(lambda: ScheduleReader(store()).answers(undecided, files))
