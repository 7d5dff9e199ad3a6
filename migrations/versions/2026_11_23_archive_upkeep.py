"""Merged files, pins of restored samples, and the progress of erasures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_archive_upkeep"
down_revision = "2026_11_23_initial"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "archive_files",
        sa.Column("merged", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_table(
        "archive_pins",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("pinned_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pinned_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name="pk_archive_pins"),
        sa.CheckConstraint("pinned_from < pinned_until", name=op.f("ck_archive_pins_range")),
    )
    op.add_column("video_tombstones", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.create_index(
        "idx_video_tombstones_forgotten",
        "video_tombstones",
        ["video_id"],
        postgresql_where=sa.text("reason = 'forgotten'"),
    )
    op.add_column(
        "archive_control",
        sa.Column("metrics_seen", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    op.drop_column("archive_control", "metrics_seen")
    op.drop_index("idx_video_tombstones_forgotten", "video_tombstones")
    op.drop_column("video_tombstones", "erased_at")
    op.drop_table("archive_pins")
    op.drop_column("archive_files", "merged")
