"""Alembic runs this file for every command. The connection, and its transaction, belong to `migrations.upgrade`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
