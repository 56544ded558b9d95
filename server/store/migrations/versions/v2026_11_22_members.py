"""The clients of the federation, and the invitations that they enrol with.

Revision: 2026_11_22_members, after 2026_11_22_ledgers. Date: 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_members"
down_revision = "2026_11_22_ledgers"
branch_labels = None
depends_on = None

NAME = sa.String(64)


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "clients",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("organisation", NAME, nullable=False),
        sa.Column("organisation_key", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_clients"),
        sa.UniqueConstraint("public_key", name="uq_clients_public_key"),
    )
    op.create_index(
        "uq_clients_active_name",
        "clients",
        ["name"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "invitations",
        sa.Column("invitation", sa.String(32), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("organisation", NAME, nullable=False),
        sa.Column("organisation_key", sa.LargeBinary(), nullable=True),
        sa.Column("proof_key", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_by", sa.LargeBinary(), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("invitation", name="pk_invitations"),
    )
    op.create_index("ix_invitations_name", "invitations", ["name"])


def downgrade() -> None:
    """Drop both; who is a member is forgotten with them."""
    op.drop_table("invitations")
    op.drop_table("clients")
