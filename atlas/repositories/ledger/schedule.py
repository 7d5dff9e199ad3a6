"""Files of the schedule in the ledger: which months' videos lie in the vault."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sqlalchemy import ColumnElement, func, select, true, update

from atlas.models import ArchiveFile
from atlas.repositories.base import Repository
from atlas.repositories.ring.cohorts import cohort_of_month
from atlas.types import ArchiveState, Dataset

if TYPE_CHECKING:
    from atlas.repositories.ledger.files import FileRecord


@dataclass(frozen=True, slots=True)
class ScheduleFile:
    """A live file: entries of one cohort."""

    id: int
    object_key: str
    cohort: int
    rows: int
    byte_size: int

    @classmethod
    def of(cls, file: FileRecord) -> Self:
        """That of a ledger row."""
        cohort = cohort_of_month(file.slice_start)
        rows, size = file.row_count or 0, file.byte_size or 0
        return cls(file.id, file.object_key, cohort, rows, size)


class ScheduleFiles(Repository):
    """Live files of the schedule, inside the caller's transaction."""

    async def live(self) -> list[ScheduleFile]:
        """All of them, oldest month first."""
        return await self._files(true())

    async def unsettled(self) -> list[ScheduleFile]:
        """Those of whose rows the ring may have some still."""
        return await self._files(ArchiveFile.settled_at.is_(None))

    async def _files(self, condition: ColumnElement[bool]) -> list[ScheduleFile]:
        rows = await self.session.execute(
            select(
                ArchiveFile.id,
                ArchiveFile.object_key,
                ArchiveFile.slice_start,
                ArchiveFile.row_count,
                ArchiveFile.byte_size,
            )
            .where(
                ArchiveFile.dataset == Dataset.SCHEDULE,
                ArchiveFile.state == ArchiveState.LIVE,
                condition,
            )
            .order_by(ArchiveFile.slice_start, ArchiveFile.seq)
        )
        return [
            ScheduleFile(number, key, cohort_of_month(month), count or 0, size or 0)
            for number, key, month, count, size in rows
        ]

    async def by_cohort(self) -> dict[int, list[ScheduleFile]]:
        """The same by cohort."""
        files: dict[int, list[ScheduleFile]] = {}
        for file in await self.live():
            files.setdefault(file.cohort, []).append(file)
        return files

    async def mark_settled(self, file_ids: Collection[int]) -> None:
        """The filter has all rows of these files."""
        await self.session.execute(
            update(ArchiveFile)
            .where(ArchiveFile.id.in_(file_ids), ArchiveFile.settled_at.is_(None))
            .values(settled_at=func.now())
        )

    async def inherit(self, old: int, new: Collection[int]) -> None:
        """Files that hold some rows of another one, which they replace, are settled if it was."""
        await self.session.execute(
            update(ArchiveFile)
            .where(ArchiveFile.id.in_(new))
            .values(
                settled_at=select(ArchiveFile.settled_at)
                .where(ArchiveFile.id == old)
                .scalar_subquery()
            )
        )
