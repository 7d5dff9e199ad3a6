"""Events become a log in daily partitions; deliveries, cursors, endpoints and routes of their own.

What was still to be delivered stays so: it goes to the endpoint ``default`` under the message id that
earlier attempts had.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_event_log"
down_revision = "2026_11_27_forever"
branch_labels = None
depends_on = None

NOW = sa.text("now()")
ZERO = sa.text("0")
EMPTY = sa.text("'{}'::jsonb")


class Xid8(sa.types.UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class Snapshot(sa.types.UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


EMIT = """
CREATE FUNCTION atlas_emit(ids uuid[], types text[], entities text[], payloads text[])
RETURNS TABLE (event_seq bigint, event_at timestamptz, failure text, detail text)
LANGUAGE plpgsql
SET lock_timeout = '2s'
AS $body$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    WITH written AS (
        INSERT INTO system_events (id, created_at, event_type, entity_id, payload)
        SELECT e.id, moment, e.type, e.entity, e.payload::jsonb
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

#: The id of an old event: a UUID of version 7 with its time, the rest from its number.
OLD_ID = """(lpad(to_hex((extract(epoch FROM created_at) * 1000)::bigint), 12, '0')
    || '7' || substr(md5(id::text), 1, 3) || '8' || substr(md5(id::text), 4, 15))::uuid"""

MAKE_DAYS = """
SELECT atlas_event_partition(day) FROM (
    SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date AS day FROM system_events_0
    UNION
    SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(0, 3) AS ahead (n)
) AS days
"""

COPY_EVENTS = f"""
INSERT INTO system_events (id, created_at, event_type, entity_id, payload)
SELECT {OLD_ID}, created_at, event_type, entity_id, payload FROM system_events_0 ORDER BY id
"""

#: Attempts of version 0.1 had evt_<id>_<microseconds in hexadecimal>, computed in double precision.
COPY_DELIVERIES = f"""
INSERT INTO event_deliveries
    (event_id, endpoint_id, event_at, due_at, attempts, delivered_at, last_error, message_id)
SELECT {OLD_ID}, (SELECT endpoint.id FROM event_endpoints AS endpoint), created_at, deliver_at, attempts,
       delivered_at, last_error,
       'evt_' || id || '_'
       || to_hex(trunc(extract(epoch FROM created_at)::float8 * 1e6::float8)::bigint)
FROM system_events_0 WHERE deliver_at IS NOT NULL OR attempts > 0
"""

MAKE_DEFAULT = """
INSERT INTO event_endpoints (name, url, secret, patterns)
SELECT 'default', 'env:EVENT_BUS_WEBHOOK_URL', 'env:EVENT_BUS_WEBHOOK_SECRET', '{}'
WHERE EXISTS (SELECT FROM system_events_0 WHERE deliver_at IS NOT NULL OR attempts > 0)
"""


def moment(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def words(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), **options)


def number(name: str, kind: type[Any] = sa.BigInteger, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind(), **options)


def upgrade() -> None:
    # nobody writes between the copy and the end of the old table
    op.execute("LOCK TABLE system_events IN ACCESS EXCLUSIVE MODE")
    op.execute("CREATE TEMPORARY TABLE system_events_0 ON COMMIT DROP AS TABLE system_events")
    op.drop_table("system_events")
    create_log()
    create_readers()
    create_deliveries()
    for statement in (EMIT, PARTITION, PIN, MAKE_DAYS, COPY_EVENTS, MAKE_DEFAULT, COPY_DELIVERIES):
        op.execute(statement)
    op.execute("DROP TABLE system_events_0")


def create_log() -> None:
    op.execute("CREATE SEQUENCE system_events_seq")
    op.create_table(
        "system_events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        moment("created_at", server_default=sa.text("clock_timestamp()"), nullable=False),
        number("seq", server_default=sa.text("nextval('system_events_seq')"), nullable=False),
        sa.Column("txid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        words("event_type", nullable=False),
        words("entity_id"),
        sa.Column("payload", postgresql.JSONB(), server_default=EMPTY, nullable=False),
        sa.PrimaryKeyConstraint("id", "created_at", name="pk_system_events"),
        postgresql_partition_by="RANGE (created_at)",
    )
    op.create_index("idx_system_events_seq", "system_events", ["seq"])
    op.create_index("idx_system_events_txid", "system_events", ["txid"])


def create_readers() -> None:
    op.create_table(
        "event_cursors",
        words("name", nullable=False),
        words("pattern", server_default=sa.text("'*'"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        words("server"),
        moment("since"),
        sa.Column("snapshot", Snapshot()),
        number("floor_seq", server_default=ZERO, nullable=False),
        sa.Column("window_snapshot", Snapshot()),
        number("window_floor", server_default=ZERO, nullable=False),
        moment("window_at"),
        number("last_seq", server_default=ZERO, nullable=False),
        moment("read_at"),
        number("version", server_default=ZERO, nullable=False),
        sa.Column("lease", sa.Uuid()),
        moment("leased_until"),
        moment("created_at", server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_event_cursors"),
    )
    op.create_table(
        "event_endpoints",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        words("name", nullable=False),
        words("url", nullable=False),
        words("secret"),
        words("next_secret"),
        sa.Column(
            "patterns", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("condition", postgresql.JSONB()),
        sa.Column("headers", postgresql.JSONB(), server_default=EMPTY, nullable=False),
        number("max_in_flight", sa.SmallInteger, server_default=sa.text("10"), nullable=False),
        words("state", server_default=sa.text("'active'"), nullable=False),
        words("reason"),
        moment("paused_until"),
        number("pause_seconds", sa.Integer, server_default=ZERO, nullable=False),
        moment("failing_since"),
        sa.Column("probe", sa.Uuid()),
        moment("changed_at", server_default=NOW, nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_endpoints"),
        sa.UniqueConstraint("name", name="uq_event_endpoints_name"),
        sa.CheckConstraint(
            "state IN ('active', 'paused', 'disabled')", name=op.f("ck_event_endpoints_state")
        ),
        sa.CheckConstraint("max_in_flight >= 1", name=op.f("ck_event_endpoints_max_in_flight")),
    )
    op.create_table(
        "event_routes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        words("pattern", nullable=False),
        sa.Column("condition", postgresql.JSONB()),
        number("endpoint_id", nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_routes"),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["event_endpoints.id"],
            name="fk_event_routes_endpoint_id_event_endpoints",
            ondelete="CASCADE",
        ),
    )


def create_deliveries() -> None:
    op.create_table(
        "event_deliveries",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        number("endpoint_id", nullable=False),
        moment("event_at", nullable=False),
        moment("due_at"),
        sa.Column("lease", sa.Uuid()),
        number("attempts", sa.SmallInteger, server_default=ZERO, nullable=False),
        moment("delivered_at"),
        words("last_error"),
        words("message_id"),
        sa.PrimaryKeyConstraint("event_id", "endpoint_id", "event_at", name="pk_event_deliveries"),
        postgresql_partition_by="RANGE (event_at)",
    )
    op.create_index(
        "idx_event_deliveries_due",
        "event_deliveries",
        ["endpoint_id", "due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )


def downgrade() -> None:
    """What is open for the endpoint ``default`` stays due; other endpoints have no place in the old shape."""
    op.execute("""
        CREATE TEMPORARY TABLE system_events_0 ON COMMIT DROP AS
        SELECT event.seq, event.event_type, event.entity_id, event.payload, event.created_at,
               delivery.due_at AS deliver_at, delivery.delivered_at,
               coalesce(delivery.attempts, 0) AS attempts, delivery.last_error
        FROM system_events AS event
        LEFT JOIN event_endpoints AS endpoint ON endpoint.name = 'default'
        LEFT JOIN event_deliveries AS delivery
            ON delivery.event_id = event.id AND delivery.endpoint_id = endpoint.id
        """)
    op.execute("DROP FUNCTION atlas_emit(uuid[], text[], text[], text[])")
    op.execute("DROP FUNCTION atlas_event_partition(date)")
    for table in (
        "event_deliveries",
        "event_routes",
        "event_endpoints",
        "event_cursors",
        "system_events",
    ):
        op.drop_table(table)
    op.execute("DROP SEQUENCE system_events_seq")
    op.create_table(
        "system_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        words("event_type", nullable=False),
        words("entity_id"),
        sa.Column("payload", postgresql.JSONB(), server_default=EMPTY, nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        moment("deliver_at"),
        moment("delivered_at"),
        number("attempts", sa.SmallInteger, server_default=ZERO, nullable=False),
        words("last_error"),
        sa.PrimaryKeyConstraint("id", name="pk_system_events"),
    )
    op.create_index("idx_system_events_created", "system_events", ["created_at"])
    op.create_index(
        "idx_system_events_deliver",
        "system_events",
        ["deliver_at"],
        postgresql_where=sa.text("deliver_at IS NOT NULL"),
    )
    op.execute("""
        INSERT INTO system_events (event_type, entity_id, payload, created_at, deliver_at,
                                   delivered_at, attempts, last_error)
        SELECT event_type, entity_id, payload, created_at, deliver_at, delivered_at, attempts,
               last_error
        FROM system_events_0 ORDER BY seq
        """)
    op.execute("DROP TABLE system_events_0")
