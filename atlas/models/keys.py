"""What processes share about API keys; never a key. See docs/hydra-protocol.md."""

from __future__ import annotations

from datetime import date
from typing import Any

from sqlalchemy import CheckConstraint, Date, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from atlas.models.base import Base, ExternalId, UtcTimestamp


class KeyRest(Base):
    """Until when an account is not to be used for a bucket (``*``: for any).

    ``account`` is ``project:<name>``, ``key:<fingerprint>``, ``host:<fingerprint>`` or ``caller:<name>``; the
    last names who was found to draw on the bucket. Rows merge by the later end.
    """

    __tablename__ = "api_key_rests"

    account: Mapped[ExternalId] = mapped_column(primary_key=True)
    bucket: Mapped[ExternalId] = mapped_column(primary_key=True)
    rest_until: Mapped[UtcTimestamp]
    reason: Mapped[str]


class QuotaUsage(Base):
    """Units of a bucket that a project spent in a Pacific day.

    ``external`` units were used by others, or by holders that died: what the API's refusal showed beyond our
    own count; ``refused``: it refused. ``leases`` maps a holder to its settled total ``t``, its
    leased units ``u`` and the lease's end ``e`` in seconds of the epoch.
    """

    __tablename__ = "api_quota_usage"

    project: Mapped[ExternalId] = mapped_column(primary_key=True)
    bucket: Mapped[ExternalId] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    spent: Mapped[int] = mapped_column(server_default=text("0"))
    external: Mapped[int] = mapped_column(server_default=text("0"))
    refused: Mapped[bool] = mapped_column(server_default=text("false"))
    leases: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))

    __table_args__ = (CheckConstraint("spent >= 0 AND external >= 0", name="units"),)


class ApiBreaker(Base):
    """An endpoint whose circuit is open: nobody calls it before ``open_until``, then one process probes."""

    __tablename__ = "api_breakers"

    endpoint: Mapped[ExternalId] = mapped_column(primary_key=True)
    open_until: Mapped[UtcTimestamp]
    failures: Mapped[int] = mapped_column(server_default=text("1"))
    probe_until: Mapped[UtcTimestamp | None]


class KeyNotice(Base):
    """A notice that a pool is spent was sent; no process sends another before ``quiet_until``."""

    __tablename__ = "api_key_notices"

    name: Mapped[ExternalId] = mapped_column(primary_key=True)
    quiet_until: Mapped[UtcTimestamp]
