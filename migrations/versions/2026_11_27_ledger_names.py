"""The names that the ledger holds: of tables and of objects, which go into SQL and paths."""

from __future__ import annotations

from alembic import op

revision = "2026_11_27_ledger_names"
down_revision = "2026_11_24_stats_claim"
branch_labels = None
depends_on = None

_CHECKS = {
    "relation": "relation ~ '^[a-z_][a-z0-9_]{0,62}$'",
    "object_key": "starts_with(object_key, dataset || '/') AND object_key !~ '[[:cntrl:]]' "
    "AND object_key !~ '(^|/)[.]{0,2}(/|$)'",
}


def upgrade() -> None:
    for name, condition in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_archive_files_{name}"), "archive_files", condition)


def downgrade() -> None:
    for name in _CHECKS:
        op.drop_constraint(op.f(f"ck_archive_files_{name}"), "archive_files")
