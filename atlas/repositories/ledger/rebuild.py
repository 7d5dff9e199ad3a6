"""Writing a ledger anew from what the files say of themselves."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, Text, bindparam, func, select, text, update

from atlas.models import ArchiveControl, ArchiveFile
from atlas.repositories.ledger.files import FileFacts, LedgerWriter, NewFile
from atlas.types import ArchiveState, Dataset


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that was found in the vault and read whole."""

    new: NewFile
    facts: FileFacts
    collected: Sequence[str] = ()


class LedgerRebuilding(LedgerWriter):
    """The steps of rebuilding, inside the caller's transaction."""

    async def is_unused(self) -> bool:
        """Whether nothing was ever archived from this database."""
        control = await self.control()
        files = await self.session.scalar(select(func.count()).select_from(ArchiveFile))
        return control.nonce is None and not files

    async def take_over(self, owner: uuid.UUID, vault: str, files: Sequence[FoundFile]) -> None:
        """Become the owner of these files, and count them all; their videos are not collected again."""
        await self.session.execute(
            update(ArchiveControl)
            .where(ArchiveControl.id == 1)
            .values(owner=owner, vault=vault, pending_nonce=None)
        )
        slices: list[NewFile] = []
        for file in files:
            new = file.new
            is_late = not new.merged and any(
                one.slice_start < new.slice_end and new.slice_start < one.slice_end
                for one in slices
            )
            if new.dataset is Dataset.STATS and not new.merged:
                slices.append(new)
            self.session.add(
                ArchiveFile(
                    dataset=new.dataset,
                    state=ArchiveState.LIVE,
                    object_key=new.object_key,
                    vault=vault,
                    seq=new.seq,
                    batch_id=new.batch_id,
                    slice_start=new.slice_start,
                    slice_end=new.slice_end,
                    is_late=is_late and new.dataset is Dataset.STATS,
                    merged=new.merged,
                    live_at=func.now(),
                    **{name: getattr(file.facts, name) for name in FileFacts.__slots__},
                )
            )
        await self.session.flush()
        for file in files:
            if file.collected:
                await self.session.execute(_REMEMBER, {"ids": list(file.collected)})


_REMEMBER = text(
    "INSERT INTO video_tombstones (video_id) SELECT id FROM unnest(:ids) AS ids (id) ORDER BY id "
    "ON CONFLICT DO NOTHING"
).bindparams(bindparam("ids", type_=ARRAY(Text)))
