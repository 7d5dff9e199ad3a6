"""A function that makes partitions for whoever may call it, as the owner of the table."""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_partition_maker"
down_revision = "2026_11_27_recovery"
branch_labels = None
depends_on = None

#: Doubled percent signs are format()'s. The schema is fixed: what the caller's path holds does not matter.
MAKER = """
DO $do$ BEGIN EXECUTE format($create$
CREATE FUNCTION atlas_make_partition(lower_bound timestamptz, upper_bound timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, %1$I, pg_temp
AS $body$
DECLARE
    name text := 'video_stats_log_p' || to_char(timezone('UTC', lower_bound), 'YYYYMMDDHH24');
BEGIN
    IF lower_bound >= upper_bound OR upper_bound - lower_bound > interval '1 day'
        OR lower_bound < timestamptz '1970-01-01 00:00:00+00'
        OR lower_bound > clock_timestamp() + interval '366 days'
    THEN
        RAISE EXCEPTION 'no bounds of a partition' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- LIKE and ATTACH instead of PARTITION OF, which would lock out every writer
    EXECUTE format('CREATE TABLE %1$I.%%I (LIKE %1$I.video_stats_log '
        'INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', name);
    EXECUTE format('ALTER TABLE %1$I.video_stats_log ATTACH PARTITION %1$I.%%I '
        'FOR VALUES FROM (%%L) TO (%%L)', name, lower_bound, upper_bound);
    RETURN name;
END $body$
$create$, current_schema()); END $do$
"""


def upgrade() -> None:
    op.execute(MAKER)
    op.execute("REVOKE ALL ON FUNCTION atlas_make_partition(timestamptz, timestamptz) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION atlas_make_partition(timestamptz, timestamptz)")
