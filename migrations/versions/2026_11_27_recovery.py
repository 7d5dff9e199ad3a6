"""What a database that went back keeps: stale samples, forgotten hashes, the seq of restored rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2026_11_27_recovery"
down_revision = "2026_11_27_event_log"
branch_labels = None
depends_on = None

_STATES = "'sealed', 'written', 'verified', 'live', 'retired', 'gone'"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '10s'")
    # no row is rewritten: PostgreSQL only notes columns without a default
    op.add_column("video_stats_log", sa.Column("seq", sa.BigInteger()))
    op.add_column("archive_control", sa.Column("adopting_from", sa.BigInteger()))
    _states(f"{_STATES}, 'aside'")
    _index(unique=False)
    op.create_table(
        "stale_samples",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("video_id", sa.Text(collation="C"), nullable=False),
        sa.Column("timestamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("views", sa.BigInteger()),
        sa.Column("likes", sa.BigInteger()),
        sa.Column("comment_count", sa.BigInteger()),
        sa.Column("outdated_by", sa.BigInteger(), nullable=False),
        _now("removed_at"),
        sa.PrimaryKeyConstraint("id", name="pk_stale_samples"),
    )
    op.create_table(
        "erasure_records",
        sa.Column("object_key", sa.Text(), nullable=False),
        _now("read_at"),
        sa.PrimaryKeyConstraint("object_key", name="pk_erasure_records"),
    )
    op.create_table(
        "erased_digests",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_erased_digests"),
    )
    op.create_table(
        "unclaimed_objects",
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _now("seen_at"),
        sa.PrimaryKeyConstraint("object_key", name="pk_unclaimed_objects"),
    )


def downgrade() -> None:
    for table in ("unclaimed_objects", "erased_digests", "erasure_records", "stale_samples"):
        op.drop_table(table)
    # what was set aside is not counted by an older version either, and its grace period never ends
    op.execute(
        "UPDATE archive_files SET state = 'retired', retired_at = 'infinity' WHERE state = 'aside'"
    )
    # and numbers that two histories drew are told apart again
    op.execute(
        "UPDATE archive_files f SET seq = f.seq + r.place FROM (SELECT id, row_number() OVER "
        "(PARTITION BY dataset, seq ORDER BY id) - 1 AS place FROM archive_files) r "
        "WHERE r.id = f.id AND r.place > 0"
    )
    _index(unique=True)
    _states(_STATES)
    op.drop_column("archive_control", "adopting_from")
    op.drop_column("video_stats_log", "seq")


def _now(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
    )


def _states(states: str) -> None:
    op.drop_constraint(op.f("ck_archive_files_state"), "archive_files", type_="check")
    op.create_check_constraint(
        op.f("ck_archive_files_state"), "archive_files", f"state IN ({states})"
    )


def _index(*, unique: bool) -> None:
    op.drop_index("idx_archive_files_seq", "archive_files")
    op.create_index("idx_archive_files_seq", "archive_files", ["dataset", "seq"], unique=unique)
