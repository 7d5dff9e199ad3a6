"""The scenarios that are searched. Each is small enough to be searched whole.

Those of `WIDE` take long, and are searched where ATLAS_CHAOS is set.
"""

from __future__ import annotations

from tests.model.environment import (
    BACKUP,
    CLONE,
    DELIVER,
    LOSE,
    PROMOTE,
    RESTORE,
    Move,
    append,
    job,
    store,
    write,
)
from tests.model.rules import Fault
from tests.model.scenario import Scenario

_LATE = frozenset({Fault.LATE})
_UNCLEAR = frozenset({Fault.LATE, Fault.LOST})
_DAMAGED = frozenset({Fault.DAMAGED})

A, B = write("A"), write("B")
ARCHIVE, COMPACT, GC, READ = job("archive"), job("compact"), job("gc"), job("read")
FORGET, ADOPT, JANITOR = job("forget", detail="B"), job("adopt"), job("janitor")
RESTORE_ROWS, RELEASE = job("restore"), job("release")

#: Two slices of one day, the second one a correction.
_CORRECTED = (A, ARCHIVE, A, ARCHIVE)
#: Two slices with different samples.
_TWO_FILES = (A, ARCHIVE, B, ARCHIVE)


def _once(*moves: Move) -> dict[Move, int]:
    return dict.fromkeys(moves, 1)


#: One database that nothing disturbs but crashes, services and other archivers.
UNDISTURBED = {
    "archive": Scenario({A: 2, ARCHIVE: 2}, faults=_LATE, returns=1, settles=True),
    "archive on the hub": Scenario(
        {A: 1, ARCHIVE: 2}, before=(A,), faults=_LATE, returns=1, hub=True
    ),
    "damaged objects": Scenario(
        {A: 1, ARCHIVE: 1, COMPACT: 1}, before=(A, ARCHIVE), faults=_DAMAGED
    ),
    "compaction": Scenario(_once(COMPACT, GC, ARCHIVE), _CORRECTED, _LATE, returns=1, settles=True),
    "compaction into two": Scenario(_once(COMPACT, GC, ARCHIVE), _TWO_FILES, _LATE, split=True),
    "scan": Scenario(_once(COMPACT, GC, READ), _CORRECTED, returns=1),
    "scan of the spool": Scenario(
        {append("A"): 1, DELIVER: 1, **_once(COMPACT, GC, READ)}, returns=1
    ),
    "metrics": Scenario({append("A"): 1, DELIVER: 2, **_once(A, ARCHIVE, COMPACT)}),
    "metrics that repeat": Scenario(
        _once(append("A", "1"), append("A", "2"), DELIVER, COMPACT, GC),
        before=(append("A", "1"), DELIVER),
    ),
    "metrics of two machines": Scenario(
        _once(append("A", "other1"), COMPACT), before=(append("A", "1"), append("A", "2"), DELIVER)
    ),
    "a fast clock": Scenario(
        {A: 1, ARCHIVE: 2, GC: 1}, before=(append("A", "fast"), DELIVER, COMPACT)
    ),
    "epoch": Scenario(
        {ARCHIVE: 2}, faults=_UNCLEAR, returns=2, fine=True, coarse=False, settles=True
    ),
    "erasure": Scenario(_once(FORGET, GC), before=(A, B, ARCHIVE), faults=_LATE, returns=1),
    "erasure and an archiver": Scenario(_once(ARCHIVE, FORGET), before=(A, B), returns=1),
    "erasure under a scan": Scenario(
        _once(FORGET, READ), before=(append("AB"), DELIVER, ARCHIVE), returns=1
    ),
    "erasure of metrics": Scenario(
        _once(append("B"), DELIVER, COMPACT, FORGET), before=(A, ARCHIVE)
    ),
    "restored samples": Scenario(
        _once(append("A"), DELIVER, RESTORE_ROWS, RELEASE, ARCHIVE), before=(A, ARCHIVE)
    ),
    "restored samples and an archiver": Scenario(
        _once(A, RESTORE_ROWS, RELEASE, ARCHIVE), before=(A, ARCHIVE), returns=1
    ),
    "removed videos": Scenario({store("A"): 2, DELIVER: 1, JANITOR: 1, GC: 1}, faults=_LATE),
    "removed videos that are forgotten": Scenario(
        _once(store("A"), DELIVER, JANITOR, FORGET), before=(store("B"),)
    ),
    "two databases": Scenario(
        _once(job("archive", 1), COMPACT, GC),
        before=(append("A"), DELIVER),
        databases=2,
        returns=2,
        coarse=False,
    ),
}

#: A database that went back, was lost or was copied.
RECOVERY = {
    "backup": Scenario(_once(A, ARCHIVE, BACKUP, RESTORE, COMPACT, GC, ADOPT), before=(A, ARCHIVE)),
    "backup within a compaction": Scenario(
        _once(BACKUP, RESTORE, COMPACT, GC, ADOPT, ARCHIVE), before=_CORRECTED
    ),
    "backup within a compaction into two": Scenario(
        _once(BACKUP, RESTORE, COMPACT, GC, ADOPT), before=_TWO_FILES, split=True, faults=_LATE
    ),
    "backup of metrics": Scenario(
        _once(DELIVER, BACKUP, RESTORE, COMPACT, GC, ADOPT), before=(append("A"),)
    ),
    "backup, metrics under a hot row": Scenario(
        _once(BACKUP, RESTORE, COMPACT, ADOPT, ARCHIVE), before=(append("A"), DELIVER, A)
    ),
    "backup within an archive": Scenario(
        {A: 1, ARCHIVE: 2, **_once(BACKUP, RESTORE, ADOPT)}, before=(A,)
    ),
    "backup, nobody adopts": Scenario(
        {ARCHIVE: 2, GC: 1, **_once(RESTORE, ADOPT)},
        before=(A, ARCHIVE, A, BACKUP, A),
        heedless=True,
    ),
    "backup within a run, nobody adopts": Scenario(
        {A: 1, ARCHIVE: 2, **_once(BACKUP, RESTORE, ADOPT)}, before=(A,), heedless=True
    ),
    "backup within a run, then clean-up": Scenario(
        _once(A, ARCHIVE, BACKUP, RESTORE, GC), before=(A,), heedless=True
    ),
    "backup and an erasure": Scenario(
        _once(BACKUP, RESTORE, ARCHIVE, FORGET, ADOPT), before=(A, B)
    ),
    "backup and an erasure that died": Scenario(
        _once(RESTORE, COMPACT, FORGET, ADOPT), before=(A, B, ARCHIVE, A, ARCHIVE, BACKUP)
    ),
    "backup of an archive": Scenario(_once(BACKUP, RESTORE, FORGET, ADOPT), before=(A, B, ARCHIVE)),
    "backup and removed videos": Scenario(
        {store("A"): 1, JANITOR: 2, **_once(BACKUP, RESTORE, ADOPT, GC)}
    ),
    "backup, adopted twice": Scenario(
        {ADOPT: 2, RESTORE: 1}, before=(A, BACKUP, A, ARCHIVE, B, ARCHIVE)
    ),
    "lost": Scenario({ADOPT: 2, LOSE: 1, FORGET: 1}, before=(A, B, ARCHIVE, A, ARCHIVE)),
    "lost, a late write": Scenario(
        _once(LOSE, COMPACT, ADOPT, GC), before=_TWO_FILES, faults=_LATE, split=True
    ),
    "copy": Scenario(_once(GC, COMPACT, CLONE, job("adopt", 1)), before=_TWO_FILES, returns=2),
    "copy, a late write": Scenario(
        _once(GC, COMPACT, job("adopt", 1)), before=(*_TWO_FILES, CLONE), returns=1, faults=_LATE
    ),
    "copy, a late write of two": Scenario(
        _once(COMPACT, job("adopt", 1)),
        before=(*_TWO_FILES, CLONE),
        returns=1,
        faults=_LATE,
        split=True,
    ),
    "copy that runs first": Scenario(
        _once(A, CLONE, job("archive", 1), job("adopt", detail="set aside"), ARCHIVE),
        before=(A, ARCHIVE, A),
    ),
    "standby": Scenario(_once(PROMOTE, ARCHIVE, ADOPT), before=(A, BACKUP, A), returns=2),
    "standby, an archiver goes on": Scenario(
        _once(GC, COMPACT, BACKUP, PROMOTE, ADOPT), before=_TWO_FILES, returns=2
    ),
}

SCENARIOS = UNDISTURBED | RECOVERY

#: The same, more of it.
WIDE = {
    "wide archive": Scenario({A: 2, ARCHIVE: 3}, faults=_UNCLEAR, returns=2, settles=True),
    "wide compaction": Scenario(
        {A: 1, ARCHIVE: 1, COMPACT: 2, GC: 1}, _CORRECTED, _LATE, returns=2
    ),
    "wide scan": Scenario(_once(COMPACT, GC, READ), _CORRECTED, returns=2, together=3, fine=True),
    "wide metrics": Scenario(
        {append("A"): 2, DELIVER: 2, A: 1, **_once(ARCHIVE, COMPACT, GC)}, returns=1
    ),
    "wide epoch": Scenario(
        {ARCHIVE: 3}, faults=_UNCLEAR, returns=3, together=3, fine=True, coarse=False
    ),
    "wide erasure": Scenario(
        {**_once(A, FORGET, GC), ARCHIVE: 2}, before=(A, B), faults=_LATE, returns=1
    ),
    "wide backup": Scenario({A: 2, ARCHIVE: 2, **_once(BACKUP, RESTORE, COMPACT, GC, ADOPT)}),
    "wide backup of metrics": Scenario(
        {append("A"): 1, DELIVER: 2, GC: 2, **_once(A, BACKUP, RESTORE, COMPACT, ADOPT)}
    ),
    "wide backup, nobody adopts": Scenario(
        {A: 1, ARCHIVE: 2, **_once(BACKUP, RESTORE, COMPACT, GC, ADOPT)}, before=(A,), heedless=True
    ),
    "wide backup and an erasure": Scenario(
        {A: 1, ARCHIVE: 2, **_once(BACKUP, RESTORE, COMPACT, FORGET, ADOPT)}, before=(A, B)
    ),
    "wide lost": Scenario(
        {ADOPT: 2, LOSE: 1, ARCHIVE: 1, **_once(COMPACT, FORGET, GC)},
        before=(A, B, ARCHIVE, A, ARCHIVE),
    ),
    "wide copy": Scenario(
        {GC: 2, job("gc", 1): 1, **_once(CLONE, COMPACT, job("adopt", 1))},
        _TWO_FILES,
        _LATE,
        returns=2,
    ),
    "wide standby": Scenario(
        {A: 1, GC: 1, COMPACT: 1, ARCHIVE: 1, **_once(BACKUP, PROMOTE, ADOPT)},
        _CORRECTED,
        returns=2,
    ),
}
