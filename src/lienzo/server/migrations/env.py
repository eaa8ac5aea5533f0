"""Alembic's entry: runs the steps in the transaction that `lienzo.server.schema.opened` has begun."""

from alembic import context

from lienzo.server.schema import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables())
context.run_migrations()
