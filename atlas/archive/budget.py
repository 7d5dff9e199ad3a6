"""HOT_MAX_BYTES: how full the hot tier is, and whether its oldest samples have to go early."""

from __future__ import annotations

from dataclasses import dataclass

from atlas.config import get_settings
from atlas.db.clock import Session, clock
from atlas.repositories.hot.partitions import Partition, Partitions
from atlas.repositories.hot.restored import Pins
from atlas.repositories.ledger.files import LedgerReader


@dataclass(frozen=True, slots=True)
class HotTier:
    """The hot tier beside its budget. Bytes are those on disk, indexes included.

    ``closed`` are the partitions that can go, oldest first: their time is over and no restore pins them.
    """

    closed: tuple[Partition, ...]
    attached_bytes: int
    sealed_bytes: int
    #: The fullest partition that no restore made so: what may come in during one partition's time.
    arriving_bytes: int
    max_bytes: int

    @property
    def bytes(self) -> int:
        """What HOT_MAX_BYTES limits: attached partitions and sealed tables."""
        return self.attached_bytes + self.sealed_bytes

    @property
    def is_over(self) -> bool:
        """Whether the budget is passed."""
        return self.bytes > self.max_bytes

    @property
    def is_short(self) -> bool:
        """Whether the attached partitions leave too little room for what comes in until the next run.

        The room is that of the fullest partition, which has seen the busiest hours: with two runs or more in
        STATS_PARTITION_HOURS the budget is not passed, unless twice as much comes in as ever before. (One
        run may be too few: any six hours can hold more than the fullest six from one boundary to the next.)
        A part of the budget would be too much room for one load and too little for another. Sealed
        tables do not count: they are on their way out.
        """
        return self.attached_bytes + self.arriving_bytes > self.max_bytes


async def hot_tier(session: Session) -> HotTier:
    """The hot tier as it is now, by the database's clock."""
    attached = await Partitions(session).attached()
    now = await clock(session)
    pins = await Pins(session).all()
    free = [
        partition
        for partition in attached
        if not any(pin.touches(partition.lower, partition.upper) for pin in pins)
    ]
    return HotTier(
        closed=tuple(partition for partition in free if partition.upper <= now),
        attached_bytes=sum(partition.byte_size for partition in attached),
        sealed_bytes=await LedgerReader(session).sealed_bytes(),
        arriving_bytes=max((partition.byte_size for partition in free), default=0),
        max_bytes=get_settings().hot_max_bytes,
    )
