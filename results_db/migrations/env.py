"""Runs the migrations on the connection that results_db.engine hands over."""

from alembic import context

from tokenlaw.results_db.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # One transaction for all: a process killed in the middle leaves the schema as it was.
    transactional_ddl=True,
    transaction_per_migration=False,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
