"""Ledgers that nobody goes on with, since they came out of a backup.

Revision: 2026_11_22_restored, after 2026_11_22_phases. Date: 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_restored"
down_revision = "2026_11_22_phases"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add why a ledger is closed; NULL while it is open."""
    op.add_column("ledgers", sa.Column("closed", sa.Text(), nullable=True))


def downgrade() -> None:
    """Forget it; every ledger is open then."""
    op.drop_column("ledgers", "closed")
