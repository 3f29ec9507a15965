from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.storage import open_storage
from agent.storage.access import Access
from tests.support.aws import CREDENTIALS, Aws, aws

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.storage.protocol import Storage


@pytest.fixture(scope="session")
def running_aws() -> Iterator[Aws]:
    with aws() as running:
        yield running


@pytest.fixture
def store(running_aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Aws:
    """S3 with one empty bucket, `bucket`, and the agent's own credentials in the environment."""
    for name, value in {**CREDENTIALS, "AWS_CONFIG_FILE": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    running_aws.reset()
    running_aws.make_bucket()
    return running_aws


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
