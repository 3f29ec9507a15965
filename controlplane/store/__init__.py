"""The SQL store: one code for SQLite and PostgreSQL (docs/adr/0006).

open_store(url) ─► SqliteStore | PostgresStore      how a transaction is run, committed and locked
                        │
                   SqlTransaction                   what is asked in one: a class per noun, synchronous Core
                        │
                   tables, migrations               what is stored
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from controlplane.store.faults import SchemaUnknown, StoreHeld
from controlplane.store.postgres import PostgresOptions, PostgresStore
from controlplane.store.sqlite import SqliteOptions, SqliteStore

if TYPE_CHECKING:
    from controlplane.engine.ports import Store

__all__ = ["PostgresOptions", "SchemaUnknown", "SqliteOptions", "StoreHeld", "open_store"]


async def open_store(
    url: str, *, sqlite: SqliteOptions | None = None, postgres: PostgresOptions | None = None
) -> Store:
    """Opens the database of a URL, made or migrated to the newest schema, and held by this process alone.

    Args:
        url: `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://user:password@host/database`.
        sqlite: how SQLite is run.
        postgres: how PostgreSQL is used.

    Raises:
        StoreHeld: another control plane has it open; the text names the holder.
        SchemaUnknown: it was migrated by a newer version.
        StoreUnavailable: it cannot be reached or opened.
        ValueError: another kind of URL.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        return await SqliteStore.open(Path(parsed.database), options=sqlite or SqliteOptions())
    if parsed.get_backend_name() == "postgresql":
        return await PostgresStore.open(parsed, options=postgres or PostgresOptions())
    raise ValueError("the database's URL must be sqlite:///path or postgresql://host/database")
