"""Files of the ledger that take the place of others: the steps of compaction and erasure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ARRAY, BigInteger, ColumnElement, any_, delete, func, insert, literal, update

from atlas.errors import LeaseLost
from atlas.models import ArchiveFile
from atlas.repositories.ledger.files import FileFacts, FileRecord, LedgerWriter
from atlas.types import ArchiveState, Dataset

#: How long adopted files are kept, and then the ledger knows them: longer than a scan or a listing takes.
_REMEMBERED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class AppendedFile:
    """An appended file whose rows now lie in a file of the ledger, and the hour of its folder."""

    object_key: str
    facts: FileFacts
    hour: datetime


class Replacement(LedgerWriter):
    """Swaps files; each method is one step inside the caller's transaction."""

    async def swap(
        self,
        outputs: Sequence[FileRecord],
        inputs: Sequence[FileRecord],
        appended: Sequence[AppendedFile],
        *,
        vault: str,
        batch_id: uuid.UUID,
    ) -> None:
        """The outputs count from the commit on, and the inputs no more.

        Raises `LeaseLost`, changing nothing, when one of them is no longer what it was.
        """
        for file in outputs:
            await self._move(file.id, ArchiveState.VERIFIED, ArchiveState.LIVE, live_at=func.now())
        retired = await self.session.scalars(
            update(ArchiveFile)
            .where(
                _one_of(inputs),
                ArchiveFile.state == ArchiveState.LIVE,
            )
            .values(state=ArchiveState.RETIRED, retired_at=func.now())
            .returning(ArchiveFile.id)
        )
        if len(retired.all()) != len(inputs):
            raise LeaseLost("a file that was to be replaced no longer counts")
        if appended:
            await self._adopt(appended, vault, batch_id)

    async def _adopt(
        self, appended: Sequence[AppendedFile], vault: str, batch_id: uuid.UUID
    ) -> None:
        seq = await self.next_seq(Dataset.METRICS)
        rows = [
            {
                "dataset": Dataset.METRICS,
                "state": ArchiveState.RETIRED,
                "object_key": file.object_key,
                "vault": vault,
                "seq": seq + number,
                "batch_id": batch_id,
                "slice_start": file.hour,
                "slice_end": file.hour + timedelta(hours=1),
                **{name: getattr(file.facts, name) for name in FileFacts.__slots__},
            }
            for number, file in enumerate(appended)
        ]
        await self.session.execute(insert(ArchiveFile).values(retired_at=func.now()), rows)

    async def expired(self, grace: timedelta) -> list[FileRecord]:
        """Retired files whose grace period is over, by the database's clock.

        That of adopted files is a day at most: they may be a thousand an hour, and every reader lists them.
        """
        age = func.now() - ArchiveFile.retired_at
        adopted = ArchiveFile.dataset == Dataset.METRICS
        return await self._files(
            (ArchiveFile.state == ArchiveState.RETIRED)
            & ((age >= grace) | (adopted & (age >= _REMEMBERED)))
        )

    async def gone(self, files: Sequence[FileRecord]) -> None:
        """retired -> gone, once the objects were deleted.

        Adopted files leave the ledger, because there are many; not at once, so that a reader can
        see that a file it did not find was adopted while it looked.
        """
        await self.session.execute(
            update(ArchiveFile)
            .where(_one_of(files), ArchiveFile.state == ArchiveState.RETIRED)
            .values(state=ArchiveState.GONE)
        )
        await self.session.execute(
            delete(ArchiveFile).where(
                ArchiveFile.dataset == Dataset.METRICS,
                ArchiveFile.state == ArchiveState.GONE,
                ArchiveFile.retired_at < func.now() - _REMEMBERED,
            )
        )


def _one_of(files: Sequence[FileRecord]) -> ColumnElement[bool]:
    # one array instead of a parameter each: there may be more files than parameters
    return ArchiveFile.id == any_(literal([file.id for file in files], ARRAY(BigInteger)))
