"""What processes share about API keys: rests, quota usage with leases, breakers, notices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_api_keys"
down_revision = "2026_11_27_ledger_names"
branch_labels = None
depends_on = None


def _name(column: str) -> sa.Column[str]:
    return sa.Column(column, sa.Text(collation="C"), nullable=False)


def _time(column: str, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(column, sa.DateTime(timezone=True), nullable=nullable)


def _count(column: str, default: str = "0") -> sa.Column[int]:
    return sa.Column(column, sa.BigInteger(), server_default=sa.text(default), nullable=False)


def upgrade() -> None:
    op.create_table(
        "api_key_rests",
        _name("account"),
        _name("bucket"),
        _time("rest_until"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account", "bucket", name="pk_api_key_rests"),
    )
    op.create_table(
        "api_quota_usage",
        _name("project"),
        _name("bucket"),
        sa.Column("day", sa.Date(), nullable=False),
        _count("spent"),
        _count("external"),
        sa.Column("refused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("leases", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("project", "bucket", "day", name="pk_api_quota_usage"),
        sa.CheckConstraint("spent >= 0 AND external >= 0", name=op.f("ck_api_quota_usage_units")),
    )
    op.create_table(
        "api_breakers",
        _name("endpoint"),
        _time("open_until"),
        _count("failures", "1"),
        _time("probe_until", nullable=True),
        sa.PrimaryKeyConstraint("endpoint", name="pk_api_breakers"),
    )
    op.create_table(
        "api_key_notices",
        _name("name"),
        _time("quiet_until"),
        sa.PrimaryKeyConstraint("name", name="pk_api_key_notices"),
    )


def downgrade() -> None:
    for table in ("api_key_notices", "api_breakers", "api_quota_usage", "api_key_rests"):
        op.drop_table(table)
