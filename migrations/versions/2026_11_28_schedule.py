"""Files of the schedule in the vault, and the filter that says which ids may be in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op
from alembic.util import CommandError

revision = "2026_11_28_schedule"
down_revision = "2026_11_28_ring_vacuum"
branch_labels = None
depends_on = None

#: A page without entries, as Atlas packs it.
_EMPTY = "01000000000000000000"


def _allow(*datasets: str) -> None:
    op.drop_constraint(op.f("ck_archive_files_dataset"), "archive_files")
    names = ", ".join(f"'{one}'" for one in datasets)
    op.create_check_constraint(
        op.f("ck_archive_files_dataset"), "archive_files", f"dataset IN ({names})"
    )


def _refuse_with_files() -> None:
    query = (
        "SELECT count(*) FROM archive_files "
        "WHERE dataset = 'schedule' AND state NOT IN ('retired', 'gone')"
    )
    if files := op.get_bind().execute(sa.text(query)).scalar_one():
        raise CommandError(
            f"{files} files in the vault hold a part of the watchlist, which older versions do not read: "
            "run `atlas vault restore-schedule`, then downgrade again"
        )


def upgrade() -> None:
    _allow("video_stats", "metrics", "videos", "schedule")
    op.add_column("archive_files", sa.Column("settled_at", sa.DateTime(timezone=True)))
    op.create_table(
        "watchlist_filter",
        sa.Column("lower", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("upper", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("entries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("lower", name="pk_watchlist_filter"),
        sa.CheckConstraint("lower <= upper", name=op.f("ck_watchlist_filter_bounds")),
    )
    op.execute("ALTER TABLE watchlist_filter ALTER COLUMN packed SET STORAGE PLAIN")
    op.execute("ALTER TABLE watchlist_filter SET (autovacuum_vacuum_scale_factor = 0.05)")
    op.execute(
        "INSERT INTO watchlist_filter (lower, upper, packed) "
        f"VALUES (-9223372036854775808, 9223372036854775807, decode('{_EMPTY}', 'hex'))"
    )


def downgrade() -> None:
    if not context.is_offline_mode():
        _refuse_with_files()
    op.drop_table("watchlist_filter")
    op.execute("DELETE FROM archive_files WHERE dataset = 'schedule'")
    op.drop_column("archive_files", "settled_at")
    _allow("video_stats", "metrics", "videos")
