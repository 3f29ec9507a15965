"""S3 and STS on this machine: a moto server of one's own, behind a door (tests/support/s3_door.py) that sees every call.

moto takes any credentials for good ones; so who called is told by the door, and refusals are the door's.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from agent.storage.access import Access, StorageSettings
from tests.support.s3_door import Door

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
REGION = "eu-north-1"
#: What the agent's own credentials are in tests.
OWN_KEY = "AKIAOWNOFTHEAGENT000"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": OWN_KEY, "AWS_SECRET_ACCESS_KEY": "own-secret-of-the-agent"}


@dataclass
class Aws:
    """A running moto server and its door. `url` is the door's: what a platform is told."""

    moto_url: str
    door: Door

    @property
    def url(self) -> str:
        return self.door.url

    def settings(self, **changes: object) -> StorageSettings:
        """As the agent's settings would make them."""
        told = {"s3_endpoint": self.url, "sts_endpoint": self.url, "region": REGION, **changes}
        return StorageSettings(**told)  # type: ignore[arg-type]

    def access(self, **changes: object) -> Access:
        """The agent's own, unless a role is named."""
        return Access(**{"session_name": "a-job", "settings": self.settings(), **changes})  # type: ignore[arg-type]

    def client(self, *, url: str = "") -> S3Client:
        """A client of the test's, past the door: what it does is not recorded."""
        return boto3.client(
            "s3",
            endpoint_url=url or self.moto_url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def make_bucket(self, name: str = "bucket") -> None:
        self.client().create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})  # type: ignore[typeddict-item]

    def put(self, uri: str, data: bytes) -> None:
        """Lay down an object, as somebody else would have."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.client().put_object(Bucket=bucket, Key=key, Body=data)

    def contents(self, uri: str) -> dict[str, bytes]:
        """Every object below a prefix, by its key after that prefix."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def unfinished_uploads(self, bucket: str = "bucket") -> int:
        return len(self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    def reset(self) -> None:
        """Forget every bucket, call and fault."""
        urllib.request.urlopen(
            urllib.request.Request(f"{self.moto_url}/moto-api/reset", method="POST"), timeout=20
        ).close()
        self.door.reset()


@contextlib.contextmanager
def moto_server(*, in_memory_bytes: int | None = None) -> Iterator[str]:
    """A moto server in a process of its own; its URL. It keeps larger parts and objects in files: from 5 MB on."""
    own = {} if in_memory_bytes is None else {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(in_memory_bytes)}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.aws"],
        cwd=ROOT,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, f"the moto server ended with status {process.wait()}"
            yield f"http://127.0.0.1:{int(said)}"
        finally:
            process.kill()


@contextlib.contextmanager
def aws() -> Iterator[Aws]:
    """moto and a door before it."""
    with moto_server() as url, Door(url) as door:
        yield Aws(url, door)


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


def _serve() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            """Nothing."""

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)  # noqa: T201  # the parent reads it
    server.serve_forever()


if __name__ == "__main__":
    _serve()
