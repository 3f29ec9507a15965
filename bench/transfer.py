"""500 MB to and from a store on this machine, against boto3 by itself, in turns.

disk ─► agent.storage.S3Storage ─► moto        then asked for its size
disk ─► boto3's upload_file     ─► moto        as boto3 does it by default
and back: S3Storage.download fsyncs and renames, download_file renames

Both send the same bytes with the same proofs, a CRC32 and a signed SHA-256 of each part; what we ask beyond that (the
size, and of a download its checksum and fsync) counts as ours. moto, one Python process, takes most of the time of an
upload, and half of that when the parts are all there: both ways wait for it alike. It keeps everything in memory, or
both would measure how the disk takes what moto writes. Each pair of turns gives a ratio, and the median of those
counts: a load that comes and goes is in both.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from agent.storage.access import Access, StorageSettings
from agent.storage.s3 import S3Storage
from bench.figures import percentile
from bench.report import Line
from tests.support.aws import CREDENTIALS, REGION, moto_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_s3 import S3Client

NAME = "transfer"
SIZE_BYTES = 500_000_000
ROUNDS_UP = 15
ROUNDS_DOWN = 3
LEAST_RATIO = 0.9
_PREFIX = "bench"


def measure(directory: Path) -> list[Line]:
    """Both have moved a little before. moto looks at the whole object for each range: few rounds of downloads."""
    directory.mkdir(parents=True)
    source, got = directory / "source", directory / "got"
    digest = _fill(source)
    with ExitStack() as opened:
        url = opened.enter_context(moto_server(in_memory_bytes=2 * SIZE_BYTES))
        opened.callback(os.environ.update, {name: os.environ.get(name, "") for name in CREDENTIALS})
        os.environ.update(CREDENTIALS)
        theirs = _client(url)
        theirs.create_bucket(Bucket=_PREFIX, CreateBucketConfiguration={"LocationConstraint": REGION})
        # As with AWS, and as boto3 does it: without a CRC of each part, moto makes one of a second copy of the whole.
        told = StorageSettings(s3_endpoint=url, region=REGION, s3_checksums=True)
        ours = S3Storage(_PREFIX, "", Access(settings=told))
        ours.put_bytes("warm", b"x")
        theirs.put_object(Bucket=_PREFIX, Key="warm", Body=b"x")
        up = _in_turns(
            lambda: ours.put("file", source),
            lambda: theirs.upload_file(str(source), _PREFIX, "theirs"),
            rounds=ROUNDS_UP,
        )
        down = _in_turns(
            lambda: ours.download("file", got),
            lambda: theirs.download_file(_PREFIX, "theirs", str(got)),
            lambda: _check_and_remove(got, digest),
            rounds=ROUNDS_DOWN,
        )
    return [_line("to", up), _line("from", down)]


def _client(url: str) -> S3Client:
    """As a script would make it, but for path-style buckets."""
    client: S3Client = boto3.client(
        "s3", endpoint_url=url, region_name=REGION, config=Config(s3={"addressing_style": "path"})
    )
    return client


def _fill(source: Path) -> str:
    digest = hashlib.sha256()
    rng = random.Random(0)
    with source.open("wb") as stream:
        for start in range(0, SIZE_BYTES, 1_000_000):
            block = rng.randbytes(min(1_000_000, SIZE_BYTES - start))
            digest.update(block)
            stream.write(block)
    return digest.hexdigest()


def _in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], after: Callable[[], object] = lambda: None, *, rounds: int
) -> tuple[list[float], list[float]]:
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_number in range(rounds):
        order = ((0, ours), (1, theirs)) if round_number % 2 else ((1, theirs), (0, ours))
        for which, transfer in order:
            began = time.perf_counter()
            transfer()
            took = time.perf_counter() - began
            after()
            seconds[which].append(took)
    return seconds


def _check_and_remove(got: Path, digest: str) -> None:
    with got.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == digest, "what was downloaded is not what was put"
    got.unlink()


def _line(way: str, seconds: tuple[list[float], list[float]]) -> Line:
    ours, theirs = (SIZE_BYTES / 1e6 / percentile(times, 50) for times in seconds)
    ratios = [reference / own for own, reference in zip(*seconds, strict=True)]
    ratio = percentile(ratios, 50)
    return Line(
        NAME,
        f"{SIZE_BYTES / 1e6:.0f} MB {way} S3 (moto); median of {len(ratios)} ratios, "
        f"from {min(ratios):.2f} to {max(ratios):.2f}",
        f"{ours:.0f} MB/s",
        f"at least {LEAST_RATIO} of the reference's",
        passed=ratio >= LEAST_RATIO,
        reference=f"boto3 by itself: {theirs:.0f} MB/s",
        ratio=ratio,
    )
