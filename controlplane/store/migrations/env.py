"""Alembic's entry: runs steps on the connection that `schema.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from controlplane.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
