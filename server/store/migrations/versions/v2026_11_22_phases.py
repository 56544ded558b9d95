"""Where the round that a run is in stands.

Revision: 2026_11_22_phases, after 2026_11_22_members. Date: 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_phases"
down_revision = "2026_11_22_members"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "phases",
        sa.Column("run", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("exchange", sa.String(32), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("snapshot_path", sa.Text(), nullable=True),
        sa.Column("snapshot_sha256", sa.String(64), nullable=True),
        sa.Column("memory", sa.JSON(), nullable=False),
        sa.Column("announced_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.run"], name="fk_phases_runs"),
        sa.PrimaryKeyConstraint("run", name="pk_phases"),
    )


def downgrade() -> None:
    """Drop it; a round that is under way begins anew then."""
    op.drop_table("phases")
