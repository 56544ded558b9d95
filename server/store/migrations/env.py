"""Run by Alembic: migrates over the connection that `tacit.server.store.schema` opened."""

from alembic import context

from tacit.server.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
