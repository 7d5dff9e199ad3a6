"""The outbox of the event bus."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Identity, Index, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, CreatedAt, UtcTimestamp


class SystemEvent(Base):
    """An event that happened. ``deliver_at`` is when the webhook is tried next; None: nothing to do."""

    __tablename__ = "system_events"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    event_type: Mapped[str]
    entity_id: Mapped[str | None]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    created_at: Mapped[CreatedAt]
    deliver_at: Mapped[UtcTimestamp | None]
    delivered_at: Mapped[UtcTimestamp | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    last_error: Mapped[str | None]

    __table_args__ = (
        Index("idx_system_events_created", "created_at"),
        Index(
            "idx_system_events_deliver",
            "deliver_at",
            postgresql_where=text("deliver_at IS NOT NULL"),
        ),
    )
