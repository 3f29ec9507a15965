from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.storage import open_storage
from agent.storage.access import Access
from tests.support.aws import running_aws, store

if TYPE_CHECKING:
    from pathlib import Path

    from agent.storage.protocol import Storage


__all__ = ["running_aws", "store"]


@pytest.fixture(params=["file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A prefix of each kind of place, empty."""
    if request.param == "file":
        return (tmp_path / "a place").as_uri() + "/"
    request.getfixturevalue("store")
    return "s3://bucket/a place/"


@pytest.fixture
def storage(request: pytest.FixtureRequest, uri: str) -> Storage:
    access = Access() if uri.startswith("file:") else request.getfixturevalue("store").access()
    return open_storage(uri, access)
