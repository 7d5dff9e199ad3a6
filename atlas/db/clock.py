"""The type of a session, for those that are handed one, and the clock by which every deadline is judged."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Session", "clock"]

Session = AsyncSession


async def clock(session: Session) -> datetime:
    """The time by the database's clock, with its time zone."""
    moment: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return moment
