"""The users' own request before it is submitted, as it is and with one thing wrong at a time: told in words by the check
whose it is, while all others pass; no event, no object, no job is left, and no secret is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.platform import SEED_FILE, dataset, platform
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = pytest.mark.timeout(300)
ROWS = 64
CHECKS = ["model", "datasets[0]", "output", "log", "webhook", "status_stream", "disk"]
SECRETS = ("hf_xxx", "hf_wrong", "mytoken", "own-secret-of-the-agent")


def malformed(rows: int, *, row: int) -> bytes:
    lines = dataset(rows).splitlines()
    lines[row - 1] = b'{"prompt": "no completion"}'
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class Case:
    """One thing that is wrong, and which check says what of it."""

    name: str
    check: str
    reason: str
    said: tuple[str, ...]
    change: Mapping[str, Any] = field(default_factory=dict)
    world: Callable[[Any], object] = lambda _: None


CASES = (
    Case(
        "the token is wrong",
        "model",
        "HUB_UNAUTHORIZED",
        ("base_model.auth_token",),
        {"base_model.auth_token": "hf_wrong"},
    ),
    Case(
        "the revision does not exist",
        "model",
        "MODEL_NOT_FOUND",
        ("base_model.revision", "v9"),
        {"base_model.revision": "v9"},
    ),
    Case(
        "the dataset's bucket does not exist",
        "datasets[0]",
        "BUCKET_NOT_FOUND",
        ("datasets[0].source", "no-such-bucket"),
        {"datasets.0.source": "s3://no-such-bucket/dataset.jsonl"},
    ),
    Case(
        "a row of the dataset is malformed",
        "datasets[0]",
        "DATASET_INVALID",
        ("datasets[0].source: row 7", "completion"),
        {"datasets.0.source": "s3://bucket/malformed.jsonl"},
    ),
    Case(
        "the role may not be assumed",
        "datasets[0]",
        "STORAGE_DENIED",
        ("datasets[0].auth.role_arn",),
        world=lambda p: p.aws.door.refuse("AssumeRole", code="AccessDenied", status=403),
    ),
    Case(
        "the output cannot be written",
        "output",
        "STORAGE_DENIED",
        ("artifacts.output_uri", "AccessDenied"),
        world=lambda p: p.aws.door.refuse("PutObject", code="AccessDenied", status=403),
    ),
    Case(
        "the webhook is down",
        "webhook",
        "ENDPOINT_UNREACHABLE",
        ("callbacks.webhook_url", "503"),
        world=lambda p: p.webhook.down.set(),
    ),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with platform(tmp_path_factory.mktemp("platform"), rows=ROWS) as found:
        found.aws.put("s3://bucket/malformed.jsonl", malformed(ROWS, row=7))
        yield found


def validate(running, directory, change: Mapping[str, Any]) -> dict[str, Any]:
    """The preflight of the seed's request with these changes; nothing of it may hold a secret."""
    spec = json.loads(SEED_FILE.read_bytes())
    for path, value in change.items():
        *parents, name = (int(part) if part.isdigit() else part for part in path.split("."))
        place = spec
        for parent in parents:
            place = place[parent]
        place[name] = value
    file = directory / "request.json"
    file.write_text(json.dumps(spec))
    status, answer = running.curl(file, "/train:validate")
    assert status == 200, answer
    assert [secret for secret in SECRETS if secret in json.dumps(answer)] == []
    return dict(answer)


def nothing_left(running) -> None:
    assert running.aws.contents("s3://bucket/models/") == {}
    assert running.aws.contents("s3://bucket/logs/") == {}
    assert running.aws.unfinished_uploads() == 0
    assert running.up.http("GET", "/train")[1]["jobs"] == []
    assert running.webhook.posted == running.events.posted == []
    probes = running.up.data_dir / "agent" / "probes"
    assert [path.name for path in probes.iterdir() if path.is_dir()] == []
    kept = [path for path in running.up.data_dir.rglob("*") if path.is_file()]
    assert [path for path in kept if b"hf_wrong" in path.read_bytes()] == []


def test_as_it_is_every_check_passes_and_what_it_takes_is_told(running, tmp_path):
    found = validate(running, tmp_path, {})
    assert [(check["name"], check["status"], check["message"]) for check in found["checks"]] == [
        (name, "PASSED", "") for name in CHECKS
    ]
    assert (found["valid"], found["feasible"]) == (True, True)
    (node,) = running.up.http("GET", "/nodes")[1]["nodes"]
    assert {check["node"] for check in found["checks"]} == {node["name"], ""}
    estimate = found["estimate"]
    # Rank 16 in one block: q_proj from 48 to 48 and v_proj from 48 to 24.
    assert estimate["trainable_parameters"] == 16 * (48 + 48 + 48 + 24)
    assert estimate["steps"] == 3 * ROWS // 64
    assert 3 * ROWS * 5 < estimate["tokens"] < 3 * ROWS * 30
    assert estimate["memory"]["adapter"] == 4 * estimate["trainable_parameters"]
    assert estimate["memory"]["weights"] == 2 * estimate["parameters"]
    assert estimate["gpu_memory_bytes"] < 2**30
    assert set(estimate["unknown"]) == {"seconds"}
    assert running.webhook.looked == running.events.looked == 1
    nothing_left(running)


def test_the_command_shows_it_as_a_table_and_ends_by_it(running, tmp_path):
    environment = os.environ | {"TRAINPLANE_ADDRESS": running.up.record["grpc"]}
    command = [sys.executable, "-m", "trainplane.cli", "validate", str(SEED_FILE)]
    ran = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(CHECKS)]] == CHECKS
    assert lines[-1] == "valid"
    assert "trained             2.69k" in lines
    assert "customization.qlora" in ran.stderr
    nothing_left(running)


def test_a_kind_of_device_that_no_node_has_is_said_and_the_rest_is_looked_at_all_the_same(running, tmp_path):
    found = validate(running, tmp_path, {"resources.gpu_type": "H100"})
    assert (found["valid"], found["feasible"]) == (True, False)
    assert found["infeasible_reason"] == "needs 4 x H100; no node has H100"
    assert {check["status"] for check in found["checks"]} == {"PASSED"}
    nothing_left(running)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_wrong_is_told_by_the_check_whose_it_is(running, tmp_path, case):
    case.world(running)
    try:
        found = validate(running, tmp_path, case.change)
    finally:
        running.aws.door.reset()
        running.webhook.down.clear()
    checks = {check["name"]: check for check in found["checks"]}
    told = checks[case.check]
    assert (told["status"], told["reason"]) == ("FAILED", case.reason), checks
    assert [words for words in case.said if words not in told["message"]] == []
    failed = {name for name, check in checks.items() if check["status"] == "FAILED"}
    # The log lies in the same store: who may not write there may not write either.
    assert failed - {case.check} <= ({"log"} if case.check == "output" else set()), checks
    nothing_left(running)
