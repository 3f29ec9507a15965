"""One suite over both databases: SQLite in a file, and a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from controlplane.store import open_store
from tests.support import postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from controlplane.engine.ports import Store
    from tests.support.postgres import Postgres


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    with postgres.running() as running:
        yield running


@pytest.fixture(scope="session")
def migrated(server) -> str:
    name = server.create()
    asyncio.run(migrate(server.url(name)))
    return name


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("migrated") / "store.db"
    asyncio.run(migrate(f"sqlite:///{file}"))
    return file


async def migrate(url: str) -> None:
    await (await open_store(url)).close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> str:
    """Which database this run of a test is about."""
    return request.param


@pytest.fixture
def url(database, request, tmp_path: Path) -> Iterator[str]:
    """An empty, migrated database of the test's own."""
    if database == "sqlite":
        yield f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_file'), tmp_path)}"
        return
    server = request.getfixturevalue("server")
    name = server.create(template=request.getfixturevalue("migrated"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture
async def store(url) -> AsyncIterator[Store]:
    opened = await open_store(url)
    yield opened
    await opened.close()
