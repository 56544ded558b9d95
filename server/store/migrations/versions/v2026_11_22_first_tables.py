"""The first tables: runs, rounds, participation, models, aliases, keys, audit.

Revision: 2026_11_22_first_tables, the first. Date: 2026-11-22.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_first_tables"
down_revision = None
branch_labels = None
depends_on = None

RUN = sa.String(200)
MODEL = sa.String(200)
SHA256 = sa.String(64)
WORD = sa.String(16)
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create them, those that others refer to first."""
    op.create_table(
        "runs",
        sa.Column("run", RUN, nullable=False),
        sa.Column("recipe_name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("recipe_toml", sa.Text(), nullable=False),
        sa.Column("recipe_sha256", SHA256, nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("status", WORD, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("summary", sa.JSON()),
        sa.PrimaryKeyConstraint("run", name="pk_runs"),
    )
    op.create_index("ix_runs_status", "runs", ["status"])
    op.create_index("ix_runs_created_at", "runs", ["created_at"])
    op.create_table(
        "rounds",
        sa.Column("run", RUN, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("seconds", sa.Double()),
        sa.Column("checkpoint_path", sa.Text()),
        sa.Column("checkpoint_sha256", SHA256),
        sa.Column("extra", sa.JSON(), nullable=False),
        sa.Column("committed_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["run"], ["runs.run"], name="fk_rounds_runs"),
        sa.PrimaryKeyConstraint("run", "number", "attempt", name="pk_rounds"),
    )
    committed = sa.text("outcome = 'committed'")
    op.create_index(
        "uq_rounds_committed",
        "rounds",
        ["run", "number"],
        unique=True,
        sqlite_where=committed,
        postgresql_where=committed,
    )
    op.create_table(
        "round_metrics",
        sa.Column("run", RUN, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.ForeignKeyConstraint(
            ["run", "number", "attempt"],
            ["rounds.run", "rounds.number", "rounds.attempt"],
            name="fk_round_metrics_rounds",
        ),
        sa.PrimaryKeyConstraint("run", "number", "attempt", "name", name="pk_round_metrics"),
    )
    op.create_table(
        "participation",
        sa.Column("run", RUN, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("outcome", WORD, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run", "number", "attempt"],
            ["rounds.run", "rounds.number", "rounds.attempt"],
            name="fk_participation_rounds",
        ),
        sa.PrimaryKeyConstraint("run", "number", "attempt", "position", name="pk_participation"),
    )
    op.create_table(
        "models",
        sa.Column("name", MODEL, nullable=False),
        sa.Column("versions", sa.Integer(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_table(
        "model_versions",
        sa.Column("name", MODEL, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", SHA256, nullable=False),
        sa.Column("run", RUN),
        sa.Column("round", sa.Integer()),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_model_versions_models"),
        sa.ForeignKeyConstraint(["run"], ["runs.run"], name="fk_model_versions_runs"),
        sa.PrimaryKeyConstraint("name", "version", name="pk_model_versions"),
        sa.UniqueConstraint("name", "digest", name="uq_model_versions_name_digest"),
    )
    op.create_index("ix_model_versions_run", "model_versions", ["run"])
    op.create_table(
        "alias_changes",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", MODEL, nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["model_versions.name", "model_versions.version"],
            name="fk_alias_changes_model_versions",
        ),
        sa.PrimaryKeyConstraint("number", name="pk_alias_changes"),
    )
    op.create_index("ix_alias_changes_name_alias", "alias_changes", ["name", "alias"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", WORD, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("secret_sha256", SHA256, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
    )
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )


def downgrade() -> None:
    """Drop them, those that refer to others first."""
    for table in (
        "audit",
        "api_keys",
        "alias_changes",
        "model_versions",
        "models",
        "participation",
        "round_metrics",
        "rounds",
        "runs",
    ):
        op.drop_table(table)
