"""The ledgers of the populations, and their records.

Revision: 2026_11_22_ledgers, after 2026_11_22_first_tables. Date: 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_ledgers"
down_revision = "2026_11_22_first_tables"
branch_labels = None
depends_on = None

POPULATION = sa.String(200)
UNIT = sa.String(16)


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "ledgers",
        sa.Column("population", POPULATION, nullable=False),
        sa.Column("unit", UNIT, nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("population", "unit", name="pk_ledgers"),
    )
    op.create_table(
        "ledger_records",
        sa.Column("population", POPULATION, nullable=False),
        sa.Column("unit", UNIT, nullable=False),
        sa.Column("counter", sa.Integer(), nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["population", "unit"], ["ledgers.population", "ledgers.unit"], name="fk_ledger_records_ledgers"
        ),
        sa.PrimaryKeyConstraint("population", "unit", "counter", name="pk_ledger_records"),
    )


def downgrade() -> None:
    """Drop both; what was spent is forgotten with them."""
    op.drop_table("ledger_records")
    op.drop_table("ledgers")
