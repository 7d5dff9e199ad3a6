"""Writing into a ledger what files in the vault say of themselves."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update

from atlas.models import ArchiveControl, ArchiveFile, UnclaimedObject
from atlas.repositories.finished import FINISHED
from atlas.repositories.ledger.files import (
    OPEN_STATES,
    FileFacts,
    FileRecord,
    LedgerWriter,
    NewFile,
)
from atlas.types import ArchiveState, Dataset


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found in the vault and read whole; ``finished``: its rows, unless they are samples."""

    new: NewFile
    facts: FileFacts
    finished: Sequence[Mapping[str, Any]] = ()


class LedgerAdoption(LedgerWriter):
    """The steps of taking files in, inside the caller's transaction."""

    async def begin(self, owner: uuid.UUID, vault: str) -> int:
        """Become the owner's database, and note the highest ``seq`` of samples that the ledger knows; an
        adoption that died keeps its own. Returns it."""
        highest = select(func.coalesce(func.max(ArchiveFile.seq), 0)).where(
            ArchiveFile.dataset == Dataset.STATS
        )
        begun = await self.session.scalar(
            update(ArchiveControl)
            .where(ArchiveControl.id == 1)
            .values(
                owner=owner,
                vault=vault,
                adopting_from=func.coalesce(
                    ArchiveControl.adopting_from, highest.scalar_subquery()
                ),
            )
            .returning(ArchiveControl.adopting_from)
        )
        # under this name elsewhere: the vault was moved, or copied
        await self.session.execute(
            update(ArchiveFile).where(ArchiveFile.vault != vault).values(vault=vault)
        )
        return int(begun or 0)

    async def take(self, file: FoundFile, vault: str) -> None:
        """Write the ledger row of a file that was found: it counts from the commit on."""
        await self.write(file, vault, ArchiveState.LIVE)
        await self._finish(file)

    async def write(self, file: FoundFile, vault: str, state: ArchiveState) -> None:
        """Write the ledger row of a file that was found, in this state."""
        new = file.new
        self.session.add(
            ArchiveFile(
                dataset=new.dataset,
                state=state,
                object_key=new.object_key,
                vault=vault,
                seq=new.seq,
                batch_id=new.batch_id,
                slice_start=new.slice_start,
                slice_end=new.slice_end,
                is_late=await self.is_late(new),
                merged=new.merged,
                live_at=func.now() if state is ArchiveState.LIVE else None,
                retired_at=func.now() if state is ArchiveState.RETIRED else None,
                **{name: getattr(file.facts, name) for name in FileFacts.__slots__},
            )
        )
        await self.session.flush()

    async def _finish(self, file: FoundFile) -> None:
        """Rows that count in the vault are no longer in the database, and videos are not collected again."""
        if file.finished:
            await FINISHED[file.new.dataset](self.session).delete_archived(file.finished)

    async def forward(self, file: FileRecord, found: FoundFile) -> None:
        """Any open state -> live, for a file without a table whose object was found whole."""
        await self.session.execute(
            update(ArchiveFile)
            .where(
                ArchiveFile.id == file.id,
                ArchiveFile.relation.is_(None),
                ArchiveFile.state.in_(OPEN_STATES),
            )
            .values(
                state=ArchiveState.LIVE,
                live_at=func.now(),
                **{name: getattr(found.facts, name) for name in FileFacts.__slots__},
            )
        )
        await self._finish(found)

    async def retire(self, keys: Collection[str]) -> int:
        """live -> retired, for files that others replaced; returns how many."""
        return await self._leave_live(keys, ArchiveState.RETIRED)

    async def mark_gone(self, keys: Collection[str]) -> int:
        """live -> gone, for files that others replaced and whose objects are gone; returns how many."""
        return await self._leave_live(keys, ArchiveState.GONE)

    async def _leave_live(self, keys: Collection[str], state: ArchiveState) -> int:
        ids = await self.session.scalars(
            update(ArchiveFile)
            .where(
                ArchiveFile.object_key.in_(keys),
                ArchiveFile.state == ArchiveState.LIVE,
            )
            .values(state=state, retired_at=func.now())
            .returning(ArchiveFile.id)
        )
        return len(ids.all())

    async def unclaimed(self) -> frozenset[str]:
        """Objects that were found not to be this database's, or not whole."""
        return frozenset(await self.session.scalars(select(UnclaimedObject.object_key)))

    async def leave_unclaimed(self, key: str, reason: str) -> None:
        """An object that need not be looked at again."""
        await self.session.merge(UnclaimedObject(object_key=key, reason=reason))
