"""Random schedules of faults: a seed gives rounds, each with a job of the archive and what befalls it."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.support.children.archive_child import (
    BUSY,
    DONE,
    KILLED,
    LEASE_LOST,
    UNAVAILABLE,
    VERIFICATION_FAILED,
)
from tests.support.faulty_store import DAMAGING, KILLING, Fault, Faults

#: Named steps, the log events after each.
STEPS = (
    "archive_sealed",
    "archive_exported",
    "archive_stored",
    "archive_written",
    "archive_verified",
    "archive_live",
)

#: Jobs by how often they are drawn, with the events that they pass.
JOBS: dict[str, tuple[int, tuple[str, ...]]] = {
    "archive": (8, STEPS),
    "compact": (5, (*STEPS[2:5], "archive_swapped", "compaction")),
    "gc": (2, ("garbage_collected",)),
    "restore": (2, ("archive_restored", "restored")),
    "release": (2, ("released",)),
    "forget": (2, ("forget_barred", "forget_hot", *STEPS[2:5], "archive_swapped", "forget_erased")),
    "janitor": (1, STEPS[2:]),
}

#: Each takes seconds.
_REMOTE_ROUNDS = 2

_CALLS = ("put_files", "compare_and_swap", "open", "delete", "stat", "list", "get_bytes")
#: Appended metrics are not read back: what damages them stays.
_ILL_APPENDS = (Fault.REFUSE, Fault.HANG, Fault.LOSE_ANSWER, Fault.LATE, Fault.SLOW)
#: Readers rely on a listing that is not old; every store promises that.
_ILL_READS = (Fault.REFUSE, Fault.BREAK_OFF, Fault.SLOW)


class Failure(StrEnum):
    """What may happen to a request of a service."""

    BUSY = "503"
    LIMITED = "429"
    BROKEN = "500"
    CUT = "cut"  # nothing is done: an upload is broken off, a listing is not whole
    LOST = "lost"  # done, but the answer is lost
    HANG = "hang"  # no answer until the client gives up
    OVERTAKEN = "overtaken"  # another writer commits first: the parent of a commit is stale


@dataclass(frozen=True)
class Illness:
    """A failure of ``kinds`` for the share ``rate`` of requests, drawn by ``seed``.

    ``kill_at`` (n, done): the job dies at its n-th request, before it or after it was carried out.
    """

    kinds: tuple[Failure, ...] = ()
    seed: int = 0
    rate: float = 0.0
    kill_at: tuple[int, bool] | None = None


@dataclass(frozen=True)
class Round:
    """A job and its trouble. What is not None befalls it; times are in seconds from its start."""

    job: str
    batches: int
    kill_at: tuple[str, int] | None = None
    kill_after: float | None = None
    faults: Faults | None = None
    postgres_dies_after: float | None = None
    second: str | None = None
    service: Illness | None = None

    @property
    def jobs(self) -> tuple[str, ...]:
        """Both of them."""
        return (self.job,) if self.second is None else (self.job, self.second)

    def __str__(self) -> str:
        troubles = {
            "killed at": self.kill_at,
            "killed after": self.kill_after,
            "store": self.faults,
            "PostgreSQL dies after": self.postgres_dies_after,
            "at the same time": self.second,
            "service": self.service,
        }
        told = [f"{what} {how}" for what, how in troubles.items() if how is not None]
        return f"{self.job}, {self.batches} batches meanwhile: {'; '.join(told) or 'no trouble'}"

    @property
    def endings(self) -> set[int]:
        """How the job may end."""
        # a killed one's session may live a moment longer and keep the lock
        endings = {DONE, BUSY}
        if self.second is not None:
            endings |= {LEASE_LOST}
        if self.kill_at is not None or self.kill_after is not None:
            endings |= {KILLED}
        if self.postgres_dies_after is not None:
            endings |= {UNAVAILABLE}
        if self.service is not None:
            endings |= {KILLED} if self.service.kill_at else {UNAVAILABLE}
        if self.faults is not None:
            killing = self.faults.all_kinds & set(KILLING)
            endings |= {KILLED} if killing else {UNAVAILABLE, VERIFICATION_FAILED}
        return endings


@dataclass(frozen=True)
class Schedule:
    """The rounds of a seed.

    With ``cold`` most samples are archived before the first round. With ``pooled`` the archiver's lock is the
    lease; with ``appends`` metrics are appended too, through an ill store if ``ill_appends``; readers'
    stores are ill if ``ill_reads``.
    """

    seed: int
    rounds: tuple[Round, ...]
    cold: bool
    pooled: bool
    appends: bool
    ill_appends: Faults | None
    ill_reads: Faults | None

    @property
    def breaks_scans(self) -> bool:
        """Whether objects are deleted at once that a reader may be reading."""
        return any(job in ("forget", "gc") for one in self.rounds for job in one.jobs)

    def __str__(self) -> str:
        lines = [f"schedule {self.seed} (ATLAS_CHAOS_SEED={self.seed} replays it):"]
        lines.append(f"  begins cold {self.cold}, lease {self.pooled}, metrics {self.appends}")
        lines.append(f"  stores of appends and reads {self.ill_appends}, {self.ill_reads}")
        return "\n".join([*lines, *(f"  {n}. {one}" for n, one in enumerate(self.rounds, 1))])


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    dice = random.Random(seed)
    jobs = {job: weight for job, (weight, _) in JOBS.items()}
    illnesses = tuple(fault for fault in Fault if fault not in KILLING)
    if dice.random() < 0.6:
        del jobs["forget"]
    else:
        # what an old listing does not show cannot be erased; every store promises that it is not old
        illnesses = tuple(fault for fault in illnesses if fault is not Fault.STALE)
    rounds = tuple(_round(dice, jobs, illnesses) for _ in range(dice.randint(2, 4)))
    appends = dice.random() < 0.5
    ill_appends = Faults(_ILL_APPENDS, dice.randrange(10**6), 0.4) if dice.random() < 0.5 else None
    ill_reads = Faults(_ILL_READS, dice.randrange(10**6), 0.03) if dice.random() < 0.3 else None
    cold, pooled = dice.random() < 0.7, dice.random() < 0.25
    return Schedule(seed, rounds, cold, pooled, appends, ill_appends, ill_reads)


def draw_remote(seed: int) -> Schedule:
    """The schedule of a seed, where a service fails instead of the store that speaks to it."""
    schedule = draw(seed)
    dice = random.Random(f"{seed} remote")
    rounds = tuple(_at_service(one, dice) for one in schedule.rounds[:_REMOTE_ROUNDS])
    return replace(schedule, rounds=rounds, ill_appends=None, ill_reads=None)


def _at_service(one: Round, dice: random.Random) -> Round:
    if one.faults is None and one.postgres_dies_after is None:
        return one
    if one.faults is not None and one.faults.all_kinds <= set(KILLING):
        illness = Illness(kill_at=(dice.randint(1, 25), dice.random() < 0.5))
    else:
        kinds = tuple(dice.sample(list(Failure), dice.randint(1, 4)))
        illness = Illness(kinds, dice.randrange(10**6), dice.choice((0.03, 0.1, 0.3)))
    return replace(one, faults=None, postgres_dies_after=None, service=illness)


def _round(dice: random.Random, jobs: dict[str, int], illnesses: tuple[Fault, ...]) -> Round:
    job, second = dice.choices(list(jobs), list(jobs.values()), k=2)
    batches = dice.randint(2, 8)
    moment = round(dice.random() * 0.35, 3)
    trouble = dice.choices(
        ("step", "moment", "call", "store", "postgres", "two", "none"), (5, 3, 4, 5, 2, 3, 2)
    )[0]
    match trouble:
        case "step":
            step = dice.choice(JOBS[job][1])
            return Round(job, batches, kill_at=(step, dice.randint(1, 4)))
        case "moment":
            return Round(job, batches, kill_after=moment)
        case "call":
            call = (dice.choice(_CALLS), dice.randint(1, 4))
            return Round(job, batches, faults=Faults(at={call: dice.choice(KILLING)}))
        case "store":
            kinds = tuple(dice.sample(illnesses, dice.randint(1, 4)))
            rate = dice.choice((0.1, 0.3, 0.6))
            return Round(job, batches, faults=Faults(kinds, dice.randrange(10**6), rate))
        case "postgres":
            return Round(job, batches, postgres_dies_after=moment)
        case "two":
            kill_after = moment if dice.random() < 0.5 else None
            return Round(job, batches, second=second, kill_after=kill_after)
    return Round(job, batches)


def may_damage(rounds: tuple[Round, ...]) -> bool:
    """Whether the store may hold objects that cannot be read, until the clean run."""
    return any(one.faults and one.faults.all_kinds & set(DAMAGING) for one in rounds)
