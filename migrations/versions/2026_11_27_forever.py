"""The slow part of the watchlist as packed pages, its calendar, and the budget of samples a day."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import context, op

revision = "2026_11_27_forever"
down_revision = "2026_11_27_api_keys"
branch_labels = None
depends_on = None

#: A page without entries that begins at position 0: format 1, no low bytes, no entries, no cohorts.
_EMPTY = "01000000" + "00000000" + "0000"


# how a page of format 1 is read; frozen here, as all of a revision is
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_BACKWARD = [pow(factor, -1, 2**64) for factor in (0xC4CEB9FE1A85EC53, 0xFF51AFD7ED558CCD)]


def _entries(packed: bytes, lower: int) -> Iterator[tuple[str, int]]:
    """The id and the cohort of each entry."""
    low_bytes, size = packed[1], int.from_bytes(packed[2:4], "little")
    high_bytes, at = int.from_bytes(packed[4:8], "little"), 8
    lows = [packed[at + low_bytes * i : at + low_bytes * (i + 1)] for i in range(size)]
    at += low_bytes * size
    unary = "".join(f"{byte:08b}" for byte in packed[at : at + high_bytes])
    highs = [place - number for number, place in enumerate(_places(unary))]
    at += high_bytes
    kinds = int.from_bytes(packed[at : at + 2], "little")
    cohorts = [
        int.from_bytes(packed[at + 2 + 2 * i : at + 4 + 2 * i], "little") for i in range(kinds)
    ]
    at, width = at + 2 + 2 * kinds, max(kinds - 1, 0).bit_length()
    bits = "".join(f"{byte:08b}" for byte in packed[at : at + -(-size * width // 8)])
    for i, (low, high) in enumerate(zip(lows, highs, strict=True)):
        position = lower + int.from_bytes(low, "little") + (high << 8 * low_bytes)
        index = int(bits[width * i : width * (i + 1)][::-1] or "0", 2)
        yield _id(position), cohorts[index]


def _places(unary: str) -> Iterator[int]:
    return (place for place, bit in enumerate(unary) if bit == "1")


def _id(position: int) -> str:
    number = position ^ (position >> 33)
    for factor in _BACKWARD:
        number = number * factor % 2**64
        number ^= number >> 33
    number <<= 2
    return "".join(_ALPHABET[number >> 6 * place & 63] for place in range(10, -1, -1))


def _unpark() -> None:
    """Every entry of the ring a row again, due at once."""
    connection = op.get_bind()
    if context.is_offline_mode():
        return
    pages = connection.execute(sa.text("SELECT lower, packed FROM watchlist_ring")).all()
    for lower, packed in pages:
        found = list(_entries(bytes(packed), lower + 2**63))
        for dormant in (False, True):
            ids = [id_ for id_, cohort in found if cohort and (cohort == 1) is dormant]
            connection.execute(
                sa.text(
                    "INSERT INTO watchlist (video_id, tracking_tier) "
                    "SELECT unnest(CAST(:ids AS text[])), :tier ON CONFLICT DO NOTHING"
                ),
                {"ids": ids, "tier": "DORMANT" if dormant else "WEEKLY"},
            )
        connection.execute(
            sa.text(
                "INSERT INTO video_tombstones (video_id) "
                "SELECT unnest(CAST(:ids AS text[])) ON CONFLICT DO NOTHING"
            ),
            {"ids": [id_ for id_, cohort in found if not cohort]},
        )


def upgrade() -> None:
    op.add_column("watchlist", sa.Column("woken_at", sa.DateTime(timezone=True)))
    op.create_index(
        "idx_watchlist_woken",
        "watchlist",
        ["woken_at"],
        postgresql_where=sa.text("woken_at IS NOT NULL"),
    )
    op.create_table(
        "watchlist_ring",
        sa.Column("lower", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("upper", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("entries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("lower", name="pk_watchlist_ring"),
        sa.CheckConstraint("lower <= upper", name=op.f("ck_watchlist_ring_bounds")),
    )
    # a page fits into one tuple: neither compressed nor moved out of line
    op.execute("ALTER TABLE watchlist_ring ALTER COLUMN packed SET STORAGE PLAIN")
    op.execute(
        "INSERT INTO watchlist_ring (lower, upper, packed) "
        f"VALUES (-9223372036854775808, 9223372036854775807, decode('{_EMPTY}', 'hex'))"
    )
    op.create_table(
        "watchlist_cohorts",
        sa.Column("cohort", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("entries", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("distance", sa.Numeric(40, 0), server_default=sa.text("0"), nullable=False),
        sa.Column("interval", sa.Interval(), nullable=False),
        sa.Column(
            "turned_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("cohort", name="pk_watchlist_cohorts"),
    )
    op.create_table(
        "watchlist_cohort_days",
        sa.Column("cohort", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("distance", sa.Numeric(40, 0), nullable=False),
        sa.Column("skipped_from", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("cohort", "day", name="pk_watchlist_cohort_days"),
    )
    op.create_table(
        "tracking_budget",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("granted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_tracking_budget"),
    )


def downgrade() -> None:
    _unpark()
    for table in (
        "tracking_budget",
        "watchlist_cohort_days",
        "watchlist_cohorts",
        "watchlist_ring",
    ):
        op.drop_table(table)
    op.drop_index("idx_watchlist_woken", "watchlist")
    op.drop_column("watchlist", "woken_at")
