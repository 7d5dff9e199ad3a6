"""The tables of Atlas."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_23_initial"
down_revision = None
branch_labels = None
depends_on = None

OPEN = "status IN ('PENDING', 'PROCESSING')"
NOW = sa.text("now()")
ZERO = sa.text("0")

STATS_DUE = """coalesce(
    timezone('UTC', stats_leased_until),
    CASE
        WHEN last_updated_at IS NULL THEN timezone('UTC', discovered_at)
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '23 hours'
            THEN timezone('UTC', last_updated_at) + interval '1 hour'
        WHEN last_updated_at - coalesce(published_at, discovered_at) < interval '162 hours'
            THEN timezone('UTC', last_updated_at) + interval '6 hours'
        ELSE timezone('UTC', last_updated_at) + interval '24 hours'
    END)"""

#: Sealed slices are detached: dropping the parent would leave them behind.
DROP_SEALED = r"""
DO $$
DECLARE sealed regclass;
BEGIN
    FOR sealed IN
        SELECT oid FROM pg_class
        WHERE relkind = 'r' AND NOT relispartition AND relname LIKE 'video\_stats\_log\_%'
          AND relnamespace = (
              SELECT relnamespace FROM pg_class WHERE oid = 'video_stats_log'::regclass
          )
    LOOP
        EXECUTE format('DROP TABLE %s', sealed);
    END LOOP;
END $$
"""


def moment(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), **options)


def external_id(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(collation="C"), **options)


def number(name: str, kind: type[Any] = sa.BigInteger, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind(), **options)


def words(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), **options)


def flag(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Boolean(), **options)


def token(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, sa.Uuid(), **options)


def serial(name: str = "id") -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), sa.Identity(), nullable=False)


def attempts(name: str) -> sa.Column[Any]:
    return number(name, sa.SmallInteger, server_default=ZERO, nullable=False)


def upgrade() -> None:
    create_collection()
    create_stats()
    create_queues()
    create_archive()
    create_events()


def create_collection() -> None:
    op.create_table(
        "channels",
        external_id("id", nullable=False),
        words("title", nullable=False),
        words("country"),
        words("custom_url"),
        moment("created_at"),
        flag("is_verified"),
        moment("last_scraped_at"),
        sa.PrimaryKeyConstraint("id", name="pk_channels"),
    )
    op.create_table(
        "videos",
        external_id("id", nullable=False),
        external_id("channel_id"),
        words("title", nullable=False),
        moment("published_at"),
        number("duration"),
        sa.Column("tags", postgresql.ARRAY(sa.Text())),
        words("category_id"),
        words("default_language"),
        sa.Column("wiki_topics", postgresql.ARRAY(sa.Text())),
        moment("discovered_at", server_default=NOW, nullable=False),
        moment("last_updated_at"),
        words("status", server_default="PENDING", nullable=False),
        flag("has_transcript", server_default=sa.false(), nullable=False),
        flag("has_visuals", server_default=sa.false(), nullable=False),
        number("priority", sa.SmallInteger, server_default=ZERO, nullable=False),
        moment("transcript_leased_until"),
        token("transcript_lease"),
        attempts("transcript_attempts"),
        moment("visuals_leased_until"),
        token("visuals_lease"),
        attempts("visuals_attempts"),
        moment("stats_leased_until"),
        token("stats_lease"),
        attempts("stats_attempts"),
        sa.PrimaryKeyConstraint("id", name="pk_videos"),
        sa.CheckConstraint(
            "status IN ('PENDING', 'PROCESSING', 'DONE', 'FAILED')", name=op.f("ck_videos_status")
        ),
        sa.CheckConstraint("octet_length(id) BETWEEN 1 AND 64", name=op.f("ck_videos_id_length")),
    )
    op.create_index("idx_video_status", "videos", ["status", "discovered_at"])
    op.create_index("idx_video_stats_claim", "videos", [sa.text(STATS_DUE)])
    for kind in ("transcript", "visuals"):
        op.create_index(
            f"idx_video_{kind}_claim",
            "videos",
            [sa.text("priority DESC"), sa.text(f"coalesce({kind}_leased_until, discovered_at)")],
            postgresql_where=sa.text(f"NOT has_{kind} AND {OPEN}"),
        )
    op.create_table(
        "video_tombstones",
        external_id("video_id", nullable=False),
        words("reason", server_default="collected", nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("video_id", name="pk_video_tombstones"),
        sa.CheckConstraint(
            "reason IN ('collected', 'forgotten')", name=op.f("ck_video_tombstones_reason")
        ),
    )


def create_stats() -> None:
    op.create_table(
        "video_stats_log",
        external_id("video_id", nullable=False),
        moment("timestamp", server_default=NOW, nullable=False),
        number("views"),
        number("likes"),
        number("comment_count"),
        sa.PrimaryKeyConstraint("video_id", "timestamp", name="pk_video_stats_log"),
        sa.CheckConstraint(
            "octet_length(video_id) BETWEEN 1 AND 64",
            name=op.f("ck_video_stats_log_video_id_length"),
        ),
        sa.CheckConstraint(
            "views >= 0 AND likes >= 0 AND comment_count >= 0",
            name=op.f("ck_video_stats_log_not_negative"),
        ),
        postgresql_partition_by="RANGE (timestamp)",
    )
    op.create_index(
        "idx_stats_timestamp", "video_stats_log", ["timestamp"], postgresql_using="brin"
    )


def create_queues() -> None:
    op.create_table(
        "watchlist",
        external_id("video_id", nullable=False),
        words("tracking_tier", server_default="HOURLY", nullable=False),
        moment("published_at"),
        moment("last_tracked_at"),
        moment("next_track_at", server_default=NOW, nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        number("last_views"),
        number("last_likes"),
        number("last_comment_count"),
        moment("leased_until"),
        token("lease"),
        attempts("attempts"),
        sa.PrimaryKeyConstraint("video_id", name="pk_watchlist"),
        sa.CheckConstraint(
            "tracking_tier IN ('HOURLY', 'DAILY', 'WEEKLY', 'DORMANT')",
            name=op.f("ck_watchlist_tracking_tier"),
        ),
        sa.CheckConstraint(
            "octet_length(video_id) BETWEEN 1 AND 64", name=op.f("ck_watchlist_video_id_length")
        ),
    )
    op.execute("ALTER TABLE watchlist SET (fillfactor = 80)")
    op.create_index(
        "idx_watchlist_next_track", "watchlist", [sa.text("coalesce(leased_until, next_track_at)")]
    )
    op.create_table(
        "search_queue",
        serial(),
        words("query_term", nullable=False),
        number("priority", sa.Integer, server_default=ZERO, nullable=False),
        number("mention_count", sa.Integer, server_default=sa.text("1"), nullable=False),
        words("next_page_token"),
        moment("last_searched_at"),
        number("result_count_total", server_default=ZERO, nullable=False),
        words("status", server_default="active", nullable=False),
        moment("created_at", server_default=NOW, nullable=False),
        moment("leased_until"),
        token("lease"),
        attempts("attempts"),
        sa.PrimaryKeyConstraint("id", name="pk_search_queue"),
        sa.UniqueConstraint("query_term", name="uq_search_queue_query_term"),
        sa.CheckConstraint(
            "status IN ('active', 'exhausted')", name=op.f("ck_search_queue_status")
        ),
        sa.CheckConstraint("query_term <> ''", name=op.f("ck_search_queue_query_term_not_empty")),
    )
    op.create_index(
        "idx_search_queue_claim",
        "search_queue",
        [sa.text("priority DESC"), sa.text("mention_count DESC"), "id"],
        postgresql_where=sa.text("status = 'active'"),
    )


def create_archive() -> None:
    op.create_table(
        "archive_files",
        serial(),
        words("dataset", nullable=False),
        words("state", server_default="sealed", nullable=False),
        words("object_key", nullable=False),
        words("vault", nullable=False),
        number("seq", nullable=False),
        token("batch_id", nullable=False),
        words("relation"),
        moment("slice_start", nullable=False),
        moment("slice_end", nullable=False),
        flag("is_late", server_default=sa.text("false"), nullable=False),
        moment("min_timestamp"),
        moment("max_timestamp"),
        external_id("min_video_id"),
        external_id("max_video_id"),
        number("row_count"),
        number("byte_size"),
        words("sha256"),
        words("fingerprint"),
        moment("sealed_at", server_default=NOW, nullable=False),
        moment("live_at"),
        moment("retired_at"),
        sa.PrimaryKeyConstraint("id", name="pk_archive_files"),
        sa.UniqueConstraint("object_key", name="uq_archive_files_object_key"),
        sa.CheckConstraint(
            "state IN ('sealed', 'written', 'verified', 'live', 'retired', 'gone')",
            name=op.f("ck_archive_files_state"),
        ),
        sa.CheckConstraint(
            "dataset IN ('video_stats', 'metrics', 'videos')", name=op.f("ck_archive_files_dataset")
        ),
        sa.CheckConstraint("slice_start < slice_end", name=op.f("ck_archive_files_slice")),
        sa.CheckConstraint(
            "state = 'sealed' OR (row_count IS NOT NULL AND byte_size IS NOT NULL "
            "AND sha256 IS NOT NULL AND fingerprint IS NOT NULL)",
            name=op.f("ck_archive_files_written_is_described"),
        ),
    )
    op.create_index("idx_archive_files_seq", "archive_files", ["dataset", "seq"], unique=True)
    op.create_index(
        "idx_archive_files_slice", "archive_files", ["dataset", "slice_start", "slice_end"]
    )
    op.create_index(
        "idx_archive_files_open",
        "archive_files",
        ["id"],
        postgresql_where=sa.text("state IN ('sealed', 'written', 'verified')"),
    )
    op.create_table(
        "archive_control",
        number("id", sa.SmallInteger, server_default=sa.text("1"), nullable=False),
        words("vault"),
        token("owner"),
        number("epoch", server_default=ZERO, nullable=False),
        token("nonce"),
        token("pending_nonce"),
        number("fence", server_default=ZERO, nullable=False),
        words("holder"),
        moment("held_until"),
        sa.PrimaryKeyConstraint("id", name="pk_archive_control"),
        sa.CheckConstraint("id = 1", name=op.f("ck_archive_control_singleton")),
    )
    op.execute("INSERT INTO archive_control (id) VALUES (1)")


def create_events() -> None:
    op.create_table(
        "system_events",
        serial(),
        words("event_type", nullable=False),
        words("entity_id"),
        sa.Column(
            "payload", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
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


def downgrade() -> None:
    op.execute(DROP_SEALED)
    for table in (
        "system_events",
        "archive_control",
        "archive_files",
        "search_queue",
        "watchlist",
        "video_stats_log",
        "video_tombstones",
        "videos",
        "channels",
    ):
        op.drop_table(table)
