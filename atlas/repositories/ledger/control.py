"""The archiver's control row: who may archive, into which vault, at which epoch."""

from __future__ import annotations

import uuid

from sqlalchemy import text, update

from atlas.models import ArchiveControl, ArchiveFile
from atlas.repositories.ledger.files import LedgerReader, hold_fence


class ControlWriter(LedgerReader):
    """Who may archive, and into which vault. Used before there is a fence to hold."""

    async def _be_brief(self) -> None:
        """Neither wait long for the row nor keep it, should this process freeze in between."""
        await self.session.execute(text("SET LOCAL lock_timeout = '10s'"))
        await self.session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '5s'"))

    async def check_fence(self, fence: int) -> None:
        """Raise `LeaseLost` if a later archiver has begun."""
        await hold_fence(self.session, fence)

    async def take_fence(self) -> int:
        """Begin as the archiver; every earlier one's steps are refused from the commit on.

        Waits for a step that one of them has under way; SQLSTATE 55P03 when that takes too long.
        """
        await self._be_brief()
        fence = await self.session.scalar(
            text("UPDATE archive_control SET fence = fence + 1 WHERE id = 1 RETURNING fence")
        )
        return int(fence or 0)

    async def try_lease(self, holder: str, seconds: float) -> bool:
        """Take or renew the archive lease by the database's clock; False: another holds it."""
        await self._be_brief()
        row = await self.session.scalar(
            text(
                "UPDATE archive_control SET holder = :holder, "
                "held_until = clock_timestamp() + make_interval(secs => :seconds) "
                "WHERE id = 1 AND (holder = :holder OR held_until IS NULL "
                "OR held_until < clock_timestamp()) RETURNING id"
            ),
            {"holder": holder, "seconds": seconds},
        )
        return row is not None

    async def end_lease(self, holder: str) -> None:
        """Give the lease back, if it is still ours."""
        await self.session.execute(
            text(
                "UPDATE archive_control SET holder = NULL, held_until = NULL "
                "WHERE id = 1 AND holder = :holder"
            ),
            {"holder": holder},
        )

    async def claim_vault(self, vault: str) -> None:
        """Bind this database to a vault and draw its owner mark, where that has not happened; one that never
        ran is bound anew."""
        await self.session.execute(
            text(
                "UPDATE archive_control SET "
                "vault = CASE WHEN nonce IS NULL THEN :vault ELSE coalesce(vault, :vault) END, "
                "owner = coalesce(owner, gen_random_uuid()) WHERE id = 1"
            ),
            {"vault": vault},
        )

    async def move_to(self, vault: str) -> None:
        """Every file lies in another vault from the commit on, under the same name."""
        await self.session.execute(
            update(ArchiveControl).where(ArchiveControl.id == 1).values(vault=vault)
        )
        await self.session.execute(update(ArchiveFile).values(vault=vault))

    async def announce(self, nonce: uuid.UUID, fence: int) -> None:
        """Say which nonce the next swap of the vault's epoch will carry. Raises `LeaseLost`.

        On the disk before the swap, whatever the server's default: a database that forgot the
        announcement would be taken for a copy.
        """
        await hold_fence(self.session, fence)
        await self.session.execute(text("SET LOCAL synchronous_commit = on"))
        await self.session.execute(
            update(ArchiveControl).where(ArchiveControl.id == 1).values(pending_nonce=nonce)
        )

    async def set_epoch(self, epoch: int, nonce: uuid.UUID, fence: int) -> None:
        """Record the epoch that the vault now carries. Raises `LeaseLost`."""
        await hold_fence(self.session, fence)
        await self.session.execute(text("SET LOCAL synchronous_commit = on"))
        await self.session.execute(
            update(ArchiveControl)
            .where(ArchiveControl.id == 1)
            .values(epoch=epoch, nonce=nonce, pending_nonce=None, adopting_from=None)
        )
