"""What a turn of the calendar needs of the vault, read before its transaction; see docs/forever.md."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from atlas.errors import AtlasError
from atlas.logging import get_logger
from atlas.reading.schedule import ScheduleReader, passing_over
from atlas.repositories.ledger.schedule import ScheduleFile, ScheduleFiles
from atlas.repositories.ring.cohorts import (
    ROUND,
    Cohort,
    CohortReader,
    Passes,
    Turn,
    day_number,
)
from atlas.repositories.ring.page import Entries
from atlas.types import ReadableStore
from atlas.vault.offload import offload

if TYPE_CHECKING:
    from atlas.db import Database

log = get_logger(__name__)

#: Seconds between two turns of a cohort, over all processes; of one that has files.
TURN_EVERY, TURN_FILES_EVERY = 60.0, 600.0
#: Seconds that a turn waits for the vault, and those for which a process leaves it alone then.
_PATIENCE, _REST = 20.0, 300.0
#: Requests at the same time.
_AT_ONCE = 8
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Passed:
    """Rows of files that a turn of a cohort passes, and of which files they are."""

    turn: Turn
    rows: Entries
    files: frozenset[str]


@dataclass(slots=True)
class Ahead:
    """What turns at ``now`` pass, by cohort."""

    now: datetime
    passed: dict[int, Passed] = field(default_factory=dict)

    def of(self, cohort: Cohort, files: Sequence[ScheduleFile]) -> Passed | None:
        """What lies before the cohort's pointer in all of its files; None: that was not read."""
        passed = self.passed.get(cohort.number)
        if passed is None or passed.turn.cohort.distance != cohort.distance:
            return None
        return passed if passed.files == _keys(files) else None


class ReadAhead:
    """Reads what the next turn passes. ``store`` is asked for when there is something to read."""

    def __init__(self, database: Database, store: Callable[[], ReadableStore] | None) -> None:
        self._database = database
        self._store = _default_store if store is None else store
        self._rest_until = 0.0

    async def read(self, now: datetime | None) -> Ahead | None:
        """The rows of each cohort that is due and has files; None where none has."""
        async with self._database.transaction(read_only=True) as session:
            files = await ScheduleFiles(session).by_cohort()
            if not files:
                return None
            cohorts = CohortReader(session)
            ahead = Ahead(now or await cohorts.now())
            calendar = [one for one in await cohorts.all() if one.entries and one.number in files]
            due = [
                one
                for one in calendar
                if (ahead.now - one.turned_at).total_seconds() >= TURN_FILES_EVERY
            ]
            passes = await cohorts.passes(due)
        if not due or time.monotonic() < self._rest_until:
            return ahead
        # those that wait longest first: there may not be the time for all
        turns = [
            turn_of(one, passes[one.number], ahead.now)
            for one in sorted(due, key=lambda one: one.turned_at)
        ]
        try:
            async with asyncio.timeout(_PATIENCE):
                reader = ScheduleReader(await offload(self._store))
                for start in range(0, len(turns), _AT_ONCE):
                    some = turns[start : start + _AT_ONCE]
                    calls = (offload(_pass, reader, files[one.cohort.number], one) for one in some)
                    for passed in await asyncio.gather(*calls):
                        ahead.passed[passed.turn.cohort.number] = passed
        except (AtlasError, TimeoutError) as error:
            self._rest_until = time.monotonic() + _REST
            why = str(error) or f"no answer within {_PATIENCE:.0f} seconds"
            log.warning("schedule_not_read", reason=why, cohorts=len(turns) - len(ahead.passed))
        return ahead


def turn_of(cohort: Cohort, passes: Passes, now: datetime) -> Turn:
    """A step by the time since the last one, a day's at most."""
    part = min(now - cohort.turned_at, _DAY) / cohort.interval
    today = day_number(now)
    skipped_from = today - int(cohort.interval / _DAY / 2)
    if passes.days:
        # one number for a day, that never falls: what was left out can be derived from it afterwards
        last = passes.days[-1]
        skipped_from = (
            last.skipped_from if last.number == today else max(skipped_from, last.skipped_from)
        )
    return Turn(cohort, cohort.distance + int(part * ROUND), skipped_from)


def _keys(files: Sequence[ScheduleFile]) -> frozenset[str]:
    return frozenset(file.object_key for file in files)


def _pass(reader: ScheduleReader, files: Sequence[ScheduleFile], turn: Turn) -> Passed:
    """The rows of all files in the spans of a turn; of an id in several the last file's counts.

    A file that is lost or damaged is passed over, and said each time: the other videos of its month go on.
    """
    rows = Entries.empty()
    for file in files:
        with passing_over(file):
            for first, last in turn.spans:
                rows = rows.merged(reader.between(file, first, last))
    return Passed(turn, rows, _keys(files))


def _default_store() -> ReadableStore:
    from atlas.vault import get_vault

    return get_vault().store
