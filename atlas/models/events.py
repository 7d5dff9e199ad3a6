"""The log of events, who reads it, and the deliveries to endpoints. See docs/event-delivery.md."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Sequence,
    SmallInteger,
    Text,
    Uuid,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from atlas.models.base import Attempts, Base, CreatedAt, LeaseToken, UtcTimestamp, after_create


class Xid8(UserDefinedType[str]):
    """The id of a transaction, which never wraps around."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Snapshot(UserDefinedType[str]):
    """Which transactions were finished at some moment: ``xmin:xmax:in progress``."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


# SQLAlchemy's reflection does not know them, and says so at every comparison with the models
ischema_names["xid8"] = Xid8
ischema_names["pg_snapshot"] = Snapshot


class SystemEvent(Base):
    """An event that happened. Rows are never updated; whole days are dropped."""

    __tablename__ = "system_events"

    id: Mapped[uuid.UUID] = mapped_column(
        Uuid, primary_key=True, server_default=func.gen_random_uuid()
    )
    created_at: Mapped[UtcTimestamp] = mapped_column(
        primary_key=True, server_default=func.clock_timestamp()
    )
    seq: Mapped[int] = mapped_column(
        BigInteger,
        Sequence("system_events_seq"),
        server_default=text("nextval('system_events_seq')"),
    )
    txid: Mapped[str] = mapped_column(Xid8, server_default=func.pg_current_xact_id())
    event_type: Mapped[str]
    entity_id: Mapped[str | None]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))

    __table_args__ = (
        Index("idx_system_events_seq", "seq"),
        Index("idx_system_events_txid", "txid"),
        {"postgresql_partition_by": "RANGE (created_at)"},
    )


class EventCursor(Base):
    """How far a reader has come: everything visible in ``snapshot``, and of ``window_snapshot`` what is up to
    ``last_seq``."""

    __tablename__ = "event_cursors"

    name: Mapped[str] = mapped_column(primary_key=True)
    pattern: Mapped[str] = mapped_column(server_default=text("'*'"))
    enabled: Mapped[bool] = mapped_column(server_default=true())
    server: Mapped[str | None]
    since: Mapped[UtcTimestamp | None]
    snapshot: Mapped[str | None] = mapped_column(Snapshot)
    floor_seq: Mapped[int] = mapped_column(server_default=text("0"))
    window_snapshot: Mapped[str | None] = mapped_column(Snapshot)
    window_floor: Mapped[int] = mapped_column(server_default=text("0"))
    window_at: Mapped[UtcTimestamp | None]
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    read_at: Mapped[UtcTimestamp | None]
    version: Mapped[int] = mapped_column(server_default=text("0"))
    lease: Mapped[LeaseToken | None]
    leased_until: Mapped[UtcTimestamp | None]
    created_at: Mapped[CreatedAt]


class EventEndpoint(Base):
    """Where deliveries go. Written when it is made or changed, and on a change of state."""

    __tablename__ = "event_endpoints"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    secret: Mapped[str | None]
    next_secret: Mapped[str | None]
    patterns: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    condition: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    headers: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    max_in_flight: Mapped[int] = mapped_column(SmallInteger, server_default=text("10"))
    state: Mapped[str] = mapped_column(server_default=text("'active'"))
    reason: Mapped[str | None]
    paused_until: Mapped[UtcTimestamp | None]
    pause_seconds: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    failing_since: Mapped[UtcTimestamp | None]
    probe: Mapped[LeaseToken | None]
    changed_at: Mapped[CreatedAt]
    created_at: Mapped[CreatedAt]

    __table_args__ = (
        CheckConstraint("state IN ('active', 'paused', 'disabled')", name="state"),
        CheckConstraint("max_in_flight >= 1", name="max_in_flight"),
    )


class EventRoute(Base):
    """A rule: events of this pattern and condition go to this endpoint."""

    __tablename__ = "event_routes"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    pattern: Mapped[str]
    condition: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    endpoint_id: Mapped[int] = mapped_column(ForeignKey("event_endpoints.id", ondelete="CASCADE"))
    created_at: Mapped[CreatedAt]


class EventDelivery(Base):
    """One event on its way to one endpoint. Open while ``due_at`` is not null."""

    __tablename__ = "event_deliveries"

    event_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    endpoint_id: Mapped[int] = mapped_column(primary_key=True)
    event_at: Mapped[UtcTimestamp] = mapped_column(primary_key=True)
    due_at: Mapped[UtcTimestamp | None]
    lease: Mapped[LeaseToken | None]
    attempts: Mapped[Attempts]
    delivered_at: Mapped[UtcTimestamp | None]
    last_error: Mapped[str | None]
    message_id: Mapped[str | None]

    __table_args__ = (
        Index(
            "idx_event_deliveries_due",
            "endpoint_id",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        {"postgresql_partition_by": "RANGE (event_at)"},
    )


#: Writes events; what fails is undone alone and comes back as a row with its SQLSTATE.
EMIT = """
CREATE FUNCTION atlas_emit(ids uuid[], types text[], entities text[], payloads text[])
RETURNS TABLE (event_seq bigint, event_at timestamptz, failure text, detail text)
LANGUAGE plpgsql
SET lock_timeout = '2s'
AS $body$
DECLARE
    moment timestamptz := clock_timestamp();
    -- cursors rely on it: a transaction has its xid before it draws a seq
    own xid8 := pg_current_xact_id();
BEGIN
    RETURN QUERY
    WITH written AS (
        INSERT INTO system_events (id, created_at, txid, event_type, entity_id, payload)
        SELECT e.id, moment, own, e.type, e.entity, e.payload::jsonb
        FROM unnest(ids, types, entities, payloads) WITH ORDINALITY
             AS e (id, type, entity, payload, n)
        ORDER BY e.n
        RETURNING seq
    )
    SELECT seq, moment, NULL::text, NULL::text FROM written ORDER BY seq;
EXCEPTION WHEN OTHERS OR query_canceled THEN
    RETURN QUERY SELECT NULL::bigint, moment, SQLSTATE::text, SQLERRM::text;
END
$body$
"""

#: Makes a day's partitions. SECURITY DEFINER: a partition needs the owner of its parent.
PARTITION = """
CREATE FUNCTION atlas_event_partition(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET lock_timeout = '2s'
AS $body$
DECLARE
    parent text;
    name text;
    made boolean := false;
BEGIN
    IF day NOT BETWEEN current_date - 3660 AND current_date + 60 THEN
        RAISE EXCEPTION 'no partition is made for %', day USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('atlas.event_partitions'));
    FOREACH parent IN ARRAY ARRAY['system_events', 'event_deliveries'] LOOP
        name := parent || '_p' || to_char(day, 'YYYYMMDD');
        IF to_regclass(name) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                           name, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, name, day || ' 00:00:00+00', (day + 1) || ' 00:00:00+00');
            made := true;
        END IF;
    END LOOP;
    RETURN made;
END
$body$
"""

#: Pins the schema that the functions look in, which a search path must not be able to change.
PIN = """
DO $do$
BEGIN
    EXECUTE format('ALTER FUNCTION atlas_emit(uuid[], text[], text[], text[]) '
                   'SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION atlas_event_partition(date) SET search_path = %I, pg_temp',
                   current_schema());
END
$do$
"""

for _statement in (EMIT, PARTITION, PIN):
    after_create(EventDelivery, _statement)
