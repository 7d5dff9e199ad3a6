"""The last error of each kind of work, and how often a video was left out of an answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_work"
down_revision = "2026_11_23_archive_upkeep"
branch_labels = None
depends_on = None

_ERRORS = (
    ("search_queue", "error"),
    ("watchlist", "error"),
    ("videos", "stats_error"),
    ("videos", "transcript_error"),
    ("videos", "visuals_error"),
)


def upgrade() -> None:
    # no column is written into the rows that are there: PostgreSQL only notes the defaults
    for table, column in _ERRORS:
        op.add_column(table, sa.Column(column, sa.Text()))
    op.add_column(
        "watchlist",
        sa.Column("omissions", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("watchlist", "omissions")
    for table, column in reversed(_ERRORS):
        op.drop_column(table, column)
