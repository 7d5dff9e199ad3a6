"""A transaction has its xid before it draws the ``seq`` of an event: cursors rely on it."""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_event_order"
down_revision = "2026_11_27_notifications"
branch_labels = None
depends_on = None

EMIT = """
CREATE OR REPLACE FUNCTION atlas_emit(ids uuid[], types text[], entities text[], payloads text[])
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

OLD_EMIT = (
    EMIT.replace("    -- cursors rely on it: a transaction has its xid before it draws a seq\n", "")
    .replace("    own xid8 := pg_current_xact_id();\n", "")
    .replace(" txid,", "")
    .replace(" own,", "")
)

PIN = """
DO $do$
BEGIN
    EXECUTE format('ALTER FUNCTION atlas_emit(uuid[], text[], text[], text[]) '
                   'SET search_path = %I, pg_temp', current_schema());
END
$do$
"""


def upgrade() -> None:
    op.execute(EMIT)
    op.execute(PIN)
    # floors of before were too high for transactions that were under way: read from the beginning, once
    op.execute("UPDATE event_cursors SET floor_seq = 0, window_floor = 0")


def downgrade() -> None:
    op.execute(OLD_EMIT)
    op.execute(PIN)
