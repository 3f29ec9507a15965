"""Brings a database to the newest schema, by the steps in `migrations/versions`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from controlplane.store.faults import SchemaUnknown

if TYPE_CHECKING:
    from sqlalchemy import Connection


def upgrade(connection: Connection) -> None:
    """Runs what is missing, in the transaction that is open on `connection`; the caller holds the database's lock.

    Raises:
        SchemaUnknown: the database was migrated by a newer version.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    steps = ScriptDirectory.from_config(config)
    known = {script.revision for script in steps.walk_revisions()}
    current = set(MigrationContext.configure(connection).get_current_heads())
    if not current <= known:
        raise SchemaUnknown(
            f"the database is at {', '.join(sorted(current - known))}, which this version does not know"
        )
    if current != set(steps.get_heads()):
        command.upgrade(config, "head")
