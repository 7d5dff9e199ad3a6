"""A function that drops days of the event log for whoever may call it, as the owner of the tables."""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_event_days"
down_revision = "2026_11_27_event_order"
branch_labels = None
depends_on = None

#: Emitters queue behind a DROP that waits for a lock, so it waits no longer than they may.
DROP_DAY = """
CREATE FUNCTION atlas_drop_event_day(day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET lock_timeout = '100ms'
AS $body$
DECLARE
    parent text;
    name text;
    dropped boolean := false;
BEGIN
    IF day >= timezone('UTC', clock_timestamp())::date THEN
        RAISE EXCEPTION 'the day % is not over', day USING ERRCODE = '22023';
    END IF;
    FOREACH parent IN ARRAY ARRAY['system_events', 'event_deliveries'] LOOP
        SELECT relname INTO name FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
        WHERE inhparent = parent::regclass
          AND relname = parent || '_p' || to_char(day::timestamp, 'YYYYMMDD');
        IF FOUND THEN
            EXECUTE format('DROP TABLE %I', name);
            dropped := true;
        END IF;
    END LOOP;
    RETURN dropped;
END
$body$
"""

#: What the caller's search path holds does not matter.
PIN = """
DO $do$ BEGIN
    EXECUTE format('ALTER FUNCTION atlas_drop_event_day(date) SET search_path = %I, pg_temp',
                   current_schema());
END $do$
"""


def upgrade() -> None:
    op.execute(DROP_DAY)
    op.execute(PIN)
    op.execute("REVOKE ALL ON FUNCTION atlas_drop_event_day(date) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION atlas_drop_event_day(date)")
