"""The pace of notifications over all processes, and the errors that are tracked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_notifications"
down_revision = "2026_11_27_partition_maker"
branch_labels = None
depends_on = None

_NOW = {"server_default": sa.func.now(), "nullable": False}


def upgrade() -> None:
    op.create_table(
        "notification_lanes",
        sa.Column("webhook", sa.Text(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), **_NOW),
        sa.Column("dead_since", sa.DateTime(timezone=True)),
        sa.Column("invalid", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("invalid_since", sa.DateTime(timezone=True), **_NOW),
        sa.PrimaryKeyConstraint("webhook", name=op.f("pk_notification_lanes")),
    )
    op.create_table(
        "error_groups",
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("stack", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("context", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("announced", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("announced_as", sa.Text()),
        sa.Column("first_at", sa.DateTime(timezone=True), **_NOW),
        sa.Column("last_at", sa.DateTime(timezone=True), **_NOW),
        sa.Column("digest_at", sa.DateTime(timezone=True)),
        sa.Column("digests", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_error_groups")),
        sa.CheckConstraint(
            "state IN ('open', 'muted', 'resolved')", name=op.f("ck_error_groups_state")
        ),
    )
    op.create_index("idx_error_groups_last_at", "error_groups", ["last_at"])


def downgrade() -> None:
    op.drop_table("error_groups")
    op.drop_table("notification_lanes")
