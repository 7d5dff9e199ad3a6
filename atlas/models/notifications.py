"""What processes share about notifications, and the errors that are tracked."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Index, Integer, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, CreatedAt, UtcTimestamp


class NotificationLane(Base):
    """The pace of a webhook over all processes. ``webhook`` is a digest of its address, never the address."""

    __tablename__ = "notification_lanes"

    webhook: Mapped[str] = mapped_column(primary_key=True)
    next_at: Mapped[CreatedAt]
    dead_since: Mapped[UtcTimestamp | None]
    invalid: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    invalid_since: Mapped[CreatedAt]


class ErrorGroup(Base):
    """Errors with one fingerprint. ``announced`` of the ``count`` were in a notification."""

    __tablename__ = "error_groups"

    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    algorithm: Mapped[int] = mapped_column(SmallInteger)
    kind: Mapped[str]
    place: Mapped[str]
    message: Mapped[str]
    level: Mapped[str]
    stack: Mapped[str] = mapped_column(server_default=text("''"))
    context: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    count: Mapped[int] = mapped_column(server_default=text("0"))
    announced: Mapped[int] = mapped_column(server_default=text("0"))
    announced_as: Mapped[str | None]
    first_at: Mapped[CreatedAt]
    last_at: Mapped[CreatedAt]
    digest_at: Mapped[UtcTimestamp | None]
    digests: Mapped[int] = mapped_column(Integer, server_default=text("0"))

    __table_args__ = (
        CheckConstraint("state IN ('open', 'muted', 'resolved')", name="state"),
        Index("idx_error_groups_last_at", "last_at"),
    )
