from __future__ import annotations

import re
import warnings

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from controlplane.store import SchemaUnknown, open_store, tables


def differences(connection):
    """What Alembic sees between a database and the tables."""

    def comparable(_object, name, kind, *_):
        # Alembic cannot read indexes over expressions back from SQLite; `definitions` compares those.
        descending = {"jobs_waiting", "jobs_unseen"}
        return not (kind == "index" and name in descending and connection.dialect.name == "sqlite")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "autogenerate skipping")
        return compare_metadata(
            MigrationContext.configure(connection, opts={"include_object": comparable}), tables.metadata
        )


def definitions(connection):
    """Every table, constraint and index in the database's own words, without Alembic's table."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        # As sorted words, because a table's clauses may stand in any order.
        found = {name: sorted(re.findall(r"[\w']+|[^\w\s,]", sql)) for name, sql in rows}
    else:
        queries = (
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            """SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, collation_name, column_default)
                 FROM information_schema.columns WHERE table_schema = 'public'""",
        )
        found = {name: definition for query in queries for name, definition in connection.execute(text(query))}
    return {name: definition for name, definition in found.items() if not name.startswith("alembic_version")}


async def inspected(url, look):
    """What `look` sees on a plain connection."""
    if url.startswith("sqlite"):
        engine = create_engine(url)
        with engine.connect() as connection:
            seen = look(connection)
            connection.commit()
        engine.dispose()
        return seen
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    async with engine.connect() as connection:
        seen = await connection.run_sync(look)
        await connection.commit()
    await engine.dispose()
    return seen


@pytest.fixture
def empty_url(database, request, tmp_path):
    """A database without any table."""
    if database == "sqlite":
        yield f"sqlite:///{tmp_path}/made.db"
        return
    server = request.getfixturevalue("server")
    name = server.create()
    yield server.url(name)
    server.drop(name)


async def test_the_migrated_schema_is_the_schema(url, empty_url):
    await inspected(empty_url, tables.metadata.create_all)

    assert await inspected(url, differences) == []
    assert await inspected(url, definitions) == await inspected(empty_url, definitions)


async def test_the_comparison_sees_a_missing_check_and_a_missing_index(database, url, empty_url):
    def spoiled(connection):
        tables.metadata.create_all(connection)
        connection.execute(text("DROP INDEX jobs_waiting"))
        connection.execute(text("DROP TABLE device_charges"))

    await inspected(empty_url, spoiled)

    missing = (await inspected(url, definitions)).keys() - (await inspected(empty_url, definitions)).keys()
    assert {"jobs_waiting", "device_charges_by_attempt"} <= missing
    assert any("device_charges" in str(difference) for difference in await inspected(empty_url, differences))


async def test_an_empty_database_is_made_and_a_made_one_is_kept(empty_url):
    first = await open_store(empty_url)
    await first.write(lambda tx: tx.set_meta("k", "v"))
    await first.close()

    second = await open_store(empty_url)
    assert await second.read(lambda tx: tx.meta("k")) == "v"
    await second.close()


async def test_a_database_of_a_newer_version_is_refused_and_let_go(url):
    await inspected(url, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))

    for _ in range(2):  # the first refusal must not keep the lock
        with pytest.raises(SchemaUnknown, match="9999"):
            await open_store(url)
