"""Autovacuum comes to the ring when a twentieth of its pages was packed anew."""

from __future__ import annotations

from alembic import op

revision = "2026_11_28_ring_vacuum"
down_revision = "2026_11_27_event_days"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE watchlist_ring SET (autovacuum_vacuum_scale_factor = 0.05)")


def downgrade() -> None:
    op.execute("ALTER TABLE watchlist_ring RESET (autovacuum_vacuum_scale_factor)")
