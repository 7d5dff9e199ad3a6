"""What is known of ids: by the ring, and by files of the schedule that somebody has read."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncSession

from atlas.repositories.base import Repository
from atlas.repositories.ring.page import KNOWN


@dataclass(frozen=True, slots=True)
class Answers:
    """What files of the schedule said of ids, read outside of any transaction.

    ``present`` are the cohorts of those that a file has; ``read`` says of the others in which files they are
    not. ``is_away``: the files cannot be read, and dates of publication have to do.
    """

    present: Mapping[str, int] = field(default_factory=dict)
    read: Mapping[str, frozenset[str]] = field(default_factory=dict)
    is_away: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """What is known of some ids: the cohort of each one that is in the ring or, by an answer, in a file, and
    which pages of the ring were looked at.

    ``undecided`` ids may be in files of the schedule, those of the cohorts named: whoever asked reads them
    and asks again.
    """

    cohorts: Mapping[str, int]
    versions: Mapping[int, int]
    undecided: Mapping[str, frozenset[int]]

    @property
    def sampled(self) -> set[str]:
        """Ids that are on the watchlist, in the ring or in a file."""
        return {video_id for video_id, cohort in self.cohorts.items() if cohort != KNOWN}


class Deciding(Repository):
    """Takes new ids in, and leaves out those that only files of the vault can decide.

    ``undecided`` are those that were left out, with the cohorts whose files may have them.
    `atlas.scheduling.undecided` reads these, and says by ``answers`` what it found.
    """

    def __init__(self, session: AsyncSession, answers: Answers | None = None) -> None:
        super().__init__(session)
        self._answers = answers
        self.undecided: dict[str, frozenset[int]] = {}

    def _note(self, seen: Membership, ids: Set[str]) -> Set[str]:
        """Note which of the ids are undecided; returns them."""
        found = ids & seen.undecided.keys()
        self.undecided |= {one: seen.undecided[one] for one in found}
        return found
