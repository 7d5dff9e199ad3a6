"""Videos whose counters are due, by urgency: a backlog is not sorted for every claim."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_24_stats_claim"
down_revision = "2026_11_24_work"
branch_labels = None
depends_on = None

URGENCY = """CASE
    WHEN coalesce(last_updated_at, discovered_at) - coalesce(published_at, discovered_at)
        < interval '23 hours' THEN 1
    WHEN coalesce(last_updated_at, discovered_at) - coalesce(published_at, discovered_at)
        < interval '162 hours' THEN 2
    ELSE 3 END"""
DUE = """coalesce(
    timezone('UTC', stats_leased_until),
    CASE
        WHEN last_updated_at IS NULL THEN timezone('UTC', discovered_at)
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '23 hours'
            THEN timezone('UTC', last_updated_at) + interval '1 hour'
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '162 hours'
            THEN timezone('UTC', last_updated_at) + interval '6 hours'
        ELSE timezone('UTC', last_updated_at) + interval '24 hours'
    END)"""


def upgrade() -> None:
    # of the videos in collection, a few hundred thousand: writers wait for a second or two
    op.drop_index("idx_video_stats_claim", "videos")
    op.create_index("idx_video_stats_claim", "videos", [sa.text(f"({URGENCY})"), sa.text(DUE)])


def downgrade() -> None:
    op.drop_index("idx_video_stats_claim", "videos")
    op.create_index("idx_video_stats_claim", "videos", [sa.text(DUE)])
