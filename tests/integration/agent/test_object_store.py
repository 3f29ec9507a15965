"""Outputs and logs in an object store: as the request's role, checked beforehand, and nothing said to the trainer."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.agent.conftest import Agent, until
from tests.support.aws import CREDENTIALS, OWN_KEY, REGION, Aws, running_aws
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from tests.support.fake_control_plane import FakeControlPlane, Job

__all__ = ["running_aws"]

ROLE = "arn:aws:iam::123:role/FineTune"
OUTPUT = "s3://bucket/models/job-id/"
LOGS = "s3://bucket/logs/job-id/"


@pytest.fixture
def aws(running_aws: Aws) -> Aws:
    running_aws.reset()
    running_aws.make_bucket()
    return running_aws


def spec(**knobs: Any) -> dict[str, Any]:
    return {
        "backend": "mock",
        "backend_options": {"steps": 3, "step_seconds": 0.01, **knobs},
        "artifacts": {"output_uri": OUTPUT, "log_uri": LOGS, "auth": {"role_arn": ROLE}},
        "resources": {"cpus": 1},
    }


def start(agent: Agent, aws: Aws, *flags: str, **environment: str) -> None:
    flags = ("--s3-endpoint", aws.url, "--sts-endpoint", aws.url, "--s3-region", REGION, *flags)
    agent.start(*flags, **{**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true", **environment})


async def ended(job: Job, kind: str) -> Any:
    return await eventually(lambda: job.last(kind), deadline_seconds=120)


async def test_output_and_every_ranks_log_go_to_the_store_as_the_role(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    start(agent, aws)
    job = await control_plane.assign(spec(hang_at_step=2))
    await ended(job, "progressed")
    # A second rank, as a training on several devices leaves one.
    (agent.directory(job) / "logs" / "rank-1.log").write_bytes(b"second rank\n")
    await until(lambda: job.logs.get(1))
    job.stop = "CANCELLED"
    await control_plane.wake()
    await ended(job, "stopped")
    logs = aws.contents(LOGS)
    written = {rank: (agent.directory(job) / "logs" / f"rank-{rank}.log").read_bytes() for rank in (0, 1)}
    for rank, content in written.items():
        parts = sorted(name for name in logs if name.startswith(f"attempt-1/rank-{rank}/"))
        assert b"".join(logs[name] for name in parts) == content == bytes(job.logs[rank])
    assert aws.contents(OUTPUT) == {}
    assert agent.events("log not shipped to its end") == []


async def test_a_published_output_matches_its_manifest_and_was_written_by_the_roles_session(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    start(agent, aws)
    job = await control_plane.assign(spec())
    published = await ended(job, "published")
    found = aws.contents(OUTPUT)
    manifest = found.pop("manifest.json")
    assert hashlib.sha256(manifest).hexdigest() == published.manifest_digest == job.granted
    assert {f["path"]: f["sha256"] for f in json.loads(manifest)["files"]} == {
        name: hashlib.sha256(content).hexdigest() for name, content in found.items()
    }
    assert aws.contents(LOGS)["attempt-1/rank-0/000001.log"] == bytes(job.log)
    assert set(aws.door.operations(by=OWN_KEY)) == {"AssumeRole"}
    assert set(aws.door.sessions.values()) == {(ROLE, job.assignment["job_id"])}


async def test_a_place_that_cannot_be_written_fails_before_the_trainer_starts(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    refused = aws.door.refuse("PutObject", code="AccessDenied", status=403, key_ends="/writable")
    start(agent, aws)
    job = await control_plane.assign(spec())
    failed = await ended(job, "failed")
    assert failed.reason == "STORAGE_DENIED"
    assert failed.message.startswith("artifacts.output_uri: s3://bucket/models/job-id/")
    assert f"allow s3:PutObject there to {ROLE}" in failed.message
    assert job.kinds() == ["failed"]
    assert refused.done == 1
    assert aws.contents("s3://bucket/") == {}


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        (
            {"output_uri": "s3://no-such/x/"},
            "BUCKET_NOT_FOUND",
            "artifacts.output_uri: bucket 'no-such' does not exist",
        ),
        ({"log_uri": "s3://no-such/x/"}, "BUCKET_NOT_FOUND", "artifacts.log_uri: bucket 'no-such' does not exist"),
    ],
)
async def test_a_missing_bucket_fails_before_the_trainer_starts(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws, changes: dict[str, Any], reason: str, words: str
) -> None:
    start(agent, aws)
    wrong = spec()
    wrong["artifacts"].update(changes)
    job = await control_plane.assign(wrong)
    failed = await ended(job, "failed")
    assert (failed.reason, job.kinds()) == (reason, ["failed"])
    assert words in failed.message
    assert aws.contents("s3://bucket/") == {}


async def test_a_role_that_is_denied_is_named(control_plane: FakeControlPlane, agent: Agent, aws: Aws) -> None:
    refused = aws.door.refuse("AssumeRole", code="AccessDenied", status=403)
    start(agent, aws)
    job = await control_plane.assign(spec())
    failed = await ended(job, "failed")
    assert (failed.reason, job.kinds()) == ("STORAGE_DENIED", ["failed"])
    assert failed.message.startswith(f"artifacts.auth.role_arn: {ROLE}: AccessDenied on AssumeRole")
    assert refused.done >= 1


async def test_another_jobs_output_is_found_before_the_trainer_starts(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    start(agent, aws)
    first = await control_plane.assign(spec())
    await ended(first, "published")
    before = aws.contents(OUTPUT)
    second = await control_plane.assign(spec(), uid="01SECOND")
    failed = await ended(second, "failed")
    assert (failed.reason, second.kinds()) == ("OUTPUT_EXISTS", ["failed"])
    assert "artifacts.overwrite" in failed.message
    assert aws.contents(OUTPUT) == before


async def test_a_store_that_is_away_for_a_while_delays_a_job_and_does_not_fail_it(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    start(agent, aws)
    away = aws.door.refuse("PutObject", code="ServiceUnavailable", status=503, times=14)
    job = await control_plane.assign(spec())
    await ended(job, "published")
    assert away.done == 14
    assert agent.events("output's place not checked")


async def test_a_store_that_stays_away_is_said_so(control_plane: FakeControlPlane, agent: Agent, aws: Aws) -> None:
    away = aws.door.refuse("CompleteMultipartUpload", "PutObject", code="ServiceUnavailable", status=503)
    start(agent, aws, TRAINPLANE_AGENT_STORAGE_PATIENCE="PT0S")
    job = await control_plane.assign(spec())
    failed = await ended(job, "failed")
    assert (failed.reason, job.kinds()) == ("STORAGE_UNAVAILABLE", ["failed"])
    assert "ServiceUnavailable on PutObject" in failed.message
    assert away.done >= 6


async def test_a_stop_in_the_midst_of_the_check_is_quick_and_leaves_nothing(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    over = threading.Event()
    silent = aws.door.hold("DeleteObjects", until=over)
    start(agent, aws)
    job = await control_plane.assign(spec())
    await until(lambda: silent.done)
    assert aws.contents(OUTPUT)
    await control_plane.stop(job)
    await ended(job, "stopped")
    over.set()
    assert job.kinds() == ["stopped"]
    assert aws.contents("s3://bucket/") == {}


async def test_credentials_reach_the_uploader_alone_and_no_environment(
    control_plane: FakeControlPlane, agent: Agent, aws: Aws
) -> None:
    start(agent, aws, AWS_SESSION_TOKEN="canary-of-the-session")
    job = await control_plane.assign(spec(hang_at_step=2))
    await ended(job, "progressed")
    assert agent.process is not None
    uploaders = await until(lambda: _children(agent.process.pid, b"agent.uploader"))
    for pid in (agent.trainer_pid(job), *uploaders):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"AWS_" not in environment
        assert b"canary" not in environment
        assert b"canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert [path for path in agent.data_dir.rglob("*") if path.is_file() and b"canary" in path.read_bytes()] == []


def _children(parent: int, naming: bytes) -> list[int]:
    pids = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return [pid for pid in pids if naming in Path(f"/proc/{pid}/cmdline").read_bytes()]
