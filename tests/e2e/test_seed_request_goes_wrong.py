"""The users' own request with one thing wrong at a time: its own reason, words with field and remedy, nothing left.

All of it on one `up`, one job after the other; most end before four ranks were started.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.eventually import eventually
from tests.support.platform import MODEL, SEED_FILE, dataset, platform

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Four ranks share the processors of whatever machine this is.
pytestmark = pytest.mark.timeout(600)

OUTPUT, LOGS = "s3://bucket/models/job-id/", "s3://bucket/logs/job-id/"
ROWS = 64
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}


@dataclass(frozen=True)
class Case:
    """One thing that is wrong: in the request, or in the world that it meets."""

    name: str
    reason: str
    said: tuple[str, ...]
    """The message begins with the first of these, and holds the others: the field, what is wrong, the remedy."""
    change: Mapping[str, Any] = field(default_factory=dict)
    world: Callable[[Any], object] = lambda _: None
    """What is wrong around the request; undone afterwards."""
    takes_devices: bool = True
    logged: bool = False
    """A trainer found it out: then its log, in the request's place for logs, says it too."""


def malformed(row: int) -> bytes:
    lines = dataset(ROWS).splitlines()
    lines[row - 1] = b'{"prompt": "What is 6 and 6?", "completion": 12}'
    return b"\n".join(lines) + b"\n"


CASES = (
    Case(
        "the role may not be assumed",
        "STORAGE_DENIED",
        ("datasets[0].auth.role_arn", "arn:aws:iam::123:role/FineTune", "AccessDenied"),
        world=lambda p: p.aws.door.refuse("AssumeRole", code="AccessDenied", status=403),
    ),
    Case(
        "the dataset's bucket does not exist",
        "BUCKET_NOT_FOUND",
        ("datasets[0].source", "no-such-bucket"),
        {"datasets.0.source": "s3://no-such-bucket/dataset.jsonl"},
    ),
    Case(
        "the dataset does not exist",
        "DATASET_NOT_FOUND",
        ("datasets[0].source", "s3://bucket/no-such.jsonl"),
        {"datasets.0.source": "s3://bucket/no-such.jsonl"},
    ),
    Case(
        "the token is wrong",
        "HUB_UNAUTHORIZED",
        ("base_model.auth_token", MODEL),
        {"base_model.auth_token": "hf_wrong"},
        takes_devices=False,
    ),
    Case(
        "the revision does not exist",
        "MODEL_NOT_FOUND",
        ("base_model.revision", "v9"),
        {"base_model.revision": "v9"},
        takes_devices=False,
    ),
    Case(
        "the model has no safetensors",
        "MODEL_FORMAT_UNSUPPORTED",
        ("base_model.model_name", "consolidated.00.pth", "safetensors"),
        {"base_model.model_name": "meta-llama/Llama-2-7b-original"},
        takes_devices=False,
    ),
    Case(
        "row 7 of the dataset is malformed",
        "DATASET_INVALID",
        ("datasets[0].source: row 7", "completion"),
        {"datasets.0.source": "s3://bucket/malformed.jsonl"},
        logged=True,
    ),
    Case(
        "no module is called so",
        "TARGET_MODULES_NOT_FOUND",
        ("customization.target_modules", "q_prj", "q_proj"),
        {"customization.target_modules": ["q_prj", "v_proj"]},
        logged=True,
    ),
    Case(
        "there is no such block",
        "LAYERS_NOT_FOUND",
        ("customization.trainable_layers", "decoder.layers.9", "layers.0 to layers.1"),
        {"customization.trainable_layers": ["decoder.layers.9"]},
        logged=True,
    ),
    Case(
        "the output's place may not be written",
        "STORAGE_DENIED",
        ("artifacts.output_uri", "AccessDenied"),
        world=lambda p: p.aws.door.refuse("PutObject", code="AccessDenied", status=403),
    ),
)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with platform(tmp_path_factory.mktemp("platform"), rows=ROWS) as found:
        found.aws.put("s3://bucket/malformed.jsonl", malformed(row=7))
        original = tmp_path_factory.mktemp("original")
        (original / "consolidated.00.pth").write_bytes(b"PK")
        (original / "params.json").write_text("{}")
        found.hub.serve("meta-llama/Llama-2-7b-original", original, token="hf_xxx")
        yield found


@pytest.fixture
def submit(running, tmp_path):
    """Sends the seed's request with these changes under an id of its own."""

    def send(job_id: str, change: Mapping[str, Any]) -> str:
        spec = json.loads(SEED_FILE.read_bytes())
        for path, value in {"job_id": job_id, **change}.items():
            *parents, name = (int(part) if part.isdigit() else part for part in path.split("."))
            place = spec
            for parent in parents:
                place = place[parent]
            place[name] = value
        file = tmp_path / f"{job_id}.json"
        file.write_text(json.dumps(spec))
        status, answer = running.curl(file)
        assert status == 200, answer
        return job_id

    return send


def end_of(running, job_id: str, *, deadline_seconds: float = 240.0) -> dict[str, Any]:
    """The job, once it has ended."""

    def ended():
        job = running.job(job_id)
        return job if job["state"] in ENDED else None

    return asyncio.run(eventually(ended, deadline_seconds=deadline_seconds, every_seconds=0.2))


def nothing_left(running) -> bool:
    """No attempt on the node, no device held, and no process of a job."""
    attempts = list((running.up.data_dir / "agent" / "attempts").iterdir())
    (node,) = running.up.http("GET", "/nodes")[1]["nodes"]
    held = [gpu["job_id"] for gpu in node["gpus"] if gpu.get("job_id")]
    free = (node["cpus_free"], node["memory_gb_free"]) == (node["cpus"], node["memory_gb"])
    assert (attempts, held, free) == ([], [], True)
    children = [" ".join(process.cmdline()) for process in running.up.processes()]
    assert [command for command in children if " -m agent." in command] == []
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_fails_in_words_and_leaves_nothing(running, submit, case):
    case.world(running)
    try:
        job = end_of(running, submit(case.name.translate(str.maketrans(" '", "--")), case.change))
    finally:
        running.aws.door.reset()
    assert (job["state"], job["reason"]) == ("FAILED", case.reason), job["message"]
    assert job["message"].startswith(case.said[0])
    assert [words for words in case.said if words not in job["message"]] == []
    assert "hf_" not in job["message"].replace("hf_wrong", "hf_")
    assert len(job["attempts"]) == (1 if case.takes_devices else 0)
    asyncio.run(eventually(lambda: nothing_left(running)))
    assert running.aws.contents(OUTPUT) == {}
    if case.logged:
        assert case.said[0].encode() in b"".join(running.aws.contents(LOGS).values())


def test_endpoints_that_are_down_for_a_while_are_told_everything_later_and_never_fail_the_job(running, submit):
    running.webhook.down.set()
    running.events.down.set()
    submit("down", {"artifacts.output_uri": "s3://bucket/models/down/"})
    job = end_of(running, "down")
    assert job["state"] == "SUCCEEDED", job["message"]
    assert running.webhook.refused >= 1
    assert running.events.refused >= 1
    assert running.webhook.calls("down") == running.events.calls("down") == []
    running.webhook.down.clear()
    running.events.down.clear()
    last = job["last_sequence"]
    asyncio.run(eventually(lambda: len(running.events.events("down")) == last, deadline_seconds=90))
    assert [event["data"]["sequence"] for event in running.events.events("down")] == list(range(1, last + 1))
    told = ["job.queued", "job.started", "job.succeeded"]
    asyncio.run(eventually(lambda: len(running.webhook.events("down")) == 3, deadline_seconds=120))
    assert [event["type"] for event in running.webhook.events("down")] == told
    assert {call.headers["authorization"] for call in running.webhook.calls("down")} == {"Bearer mytoken"}


def test_with_method_qlora_the_base_is_quantized_as_the_request_s_own_block_says(running, submit):
    output = "s3://bucket/models/qlora/"
    submit("qlora", {"customization.method": "qlora", "artifacts.output_uri": output})
    job = end_of(running, "qlora")
    assert job["state"] == "SUCCEEDED", job["message"]
    assert job.get("warnings", []) == [], "the block has an effect now"
    provenance = json.loads(running.aws.contents(output)["provenance.json"])
    quantization = provenance["base_model"]["quantization"]
    assert (quantization["bits"], quantization["type"], quantization["double_quant"]) == (4, "nf4", True)
    assert quantization["compute_dtype"] == "bfloat16"
    assert provenance["training"]["world_size"] == 4
    asyncio.run(eventually(lambda: nothing_left(running)))
