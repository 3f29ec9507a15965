"""The users' own request, byte for byte, runs to its end: model from a hub, data and results in S3, four ranks.

Everything it reaches is on this machine (tests/support/platform.py), by settings that a user's platform has too. One
job is trained; each test looks at one thing that must then be true.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import subprocess
import sys

import pytest

from tests.support.aws import OWN_KEY
from tests.support.eventually import eventually
from tests.support.leaks import Sampler
from tests.support.platform import DATASET, MODEL, SEED_FILE, dataset, platform

#: Four ranks share the processors of whatever machine this is.
pytestmark = pytest.mark.timeout(600)

JOB = "unique-train-id"
ROLE = "arn:aws:iam::123:role/FineTune"
OUTPUT, LOGS = "s3://bucket/models/job-id/", "s3://bucket/logs/job-id/"
ROWS, EPOCHS, BATCH = 640, 3, 64
STEPS = ROWS * EPOCHS // BATCH
SECRETS = ("hf_xxx", "mytoken")
#: In a fresh process, with nothing but PEFT: what a user does with the result.
LOADS = """
import json, sys
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
config = model.peft_config["default"]
print(json.dumps({
    "rank": config.r, "alpha": config.lora_alpha, "base": config.base_model_name_or_path,
    "moved": {name: float(p.abs().max()) for name, p in model.named_parameters() if "lora_B" in name},
    "shapes": {name: list(p.shape) for name, p in model.named_parameters() if "lora_A" in name},
}))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with platform(tmp_path_factory.mktemp("platform"), rows=ROWS) as found:
        yield found


@pytest.fixture(scope="module")
def sampler(running, tmp_path_factory):
    """Looks for the secrets from before the request is sent until all tests have looked."""
    decoy = tmp_path_factory.mktemp("decoy")
    with Sampler(SECRETS, running.up.pid, running.up.data_dir, decoy) as looking:
        yield looking


@pytest.fixture(scope="module")
def job(running, sampler):
    """The request's job, trained."""
    assert SEED_FILE.read_bytes().count(b"hf_xxx") == 1
    status, submitted = running.curl(SEED_FILE)
    assert status == 200, submitted

    def ended():
        found = running.job(JOB)
        return found if found["state"] in {"SUCCEEDED", "FAILED", "CANCELLED"} else None

    found = asyncio.run(eventually(ended, deadline_seconds=400, every_seconds=0.5))
    logs = [path.read_text()[-3000:] for path in running.up.data_dir.glob("agent/attempts/*/logs/*.log")]
    assert found["state"] == "SUCCEEDED", (found["reason"], found["message"], logs)
    return found


@pytest.fixture(scope="module")
def output(running, job):
    """What is at the output's place, by name."""
    return running.aws.contents(OUTPUT)


@pytest.fixture(scope="module")
def provenance(output):
    return json.loads(output["provenance.json"])


def test_it_ran_on_four_a100_in_one_attempt(running, job):
    (attempt,) = job["attempts"]
    assert sorted(attempt["devices"]) == ["0", "1", "2", "3"]
    assert job["base_model_commit"] == running.commit
    assert job["output_uri"] == OUTPUT
    types = [event["type"] for event in running.history(JOB)]
    assert types.count("job.started") == 1
    assert (types[0], types[-1]) == ("job.queued", "job.succeeded")


def test_the_adapter_loads_in_plain_peft_and_is_what_was_asked_for(running, job, output, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(output[name])
    ran = subprocess.run(
        [sys.executable, "-c", LOADS, str(running.model), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    loaded = json.loads(ran.stdout.splitlines()[-1])
    assert (loaded["rank"], loaded["alpha"], loaded["base"]) == (16, 32, MODEL)
    assert {name.split(".lora_A")[0].partition("layers.")[2] for name in loaded["shapes"]} == {
        "0.self_attn.q_proj",
        "0.self_attn.v_proj",
    }
    assert all(shape[0] == 16 for shape in loaded["shapes"].values())
    assert len(loaded["moved"]) == 2
    assert all(moved > 0 for moved in loaded["moved"].values()), "lora_B begins as zeros"


def test_the_provenance_says_what_the_request_said(running, provenance):
    training = provenance["training"]
    assert training["precision"] == "bf16"
    assert provenance["base_model"]["dtype"] == "bf16"
    assert (training["world_size"], training["effective_batch_size"]) == (4, BATCH)
    assert training["gradient_checkpointing"] is True
    assert (training["steps"], training["epochs"]) == (STEPS, EPOCHS)
    assert (training["peak_learning_rate"], training["warmup_steps"]) == (2e-4, STEPS // 10)
    assert provenance["base_model"]["model_name"] == MODEL
    assert provenance["base_model"]["commit"] == running.commit


async def test_the_learning_rate_peaks_at_2e_4_after_a_tenth_of_the_steps(running, job):
    status, metrics = running.up.http("GET", f"/train/{JOB}/metrics?max_points=1000")
    assert status == 200, metrics
    (series,) = [each for each in metrics["series"] if each["name"] == "learning_rate"]
    assert series["steps"] == list(range(1, STEPS + 1))
    rates = series["values"]
    assert max(rates) == pytest.approx(2e-4)
    assert rates.index(max(rates)) + 1 == STEPS // 10
    assert rates[: STEPS // 10] == sorted(rates[: STEPS // 10])
    assert rates[STEPS // 10 - 1 :] == sorted(rates[STEPS // 10 - 1 :], reverse=True)


def test_the_four_ranks_shared_the_dataset_and_nothing_twice(provenance):
    ranks = provenance["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1, 2, 3]
    numbers = [number for rank in ranks for number in rank["first_epoch"]["numbers"]]
    assert len(numbers) == len(set(numbers)) == ROWS
    assert min(len(rank["first_epoch"]["numbers"]) for rank in ranks) == ROWS // 4
    assert len({rank["adapter_sha256"] for rank in ranks}) == 1, "all ranks hold the same adapter"
    (source,) = provenance["datasets"]["sources"]
    assert (source["source"], source["rows"]) == (DATASET, ROWS)
    assert source["sha256"] == hashlib.sha256(dataset(ROWS)).hexdigest()


def test_the_dataset_was_read_by_a_session_of_the_request_s_role(running, job):
    sessions = {key for key, (role, _) in running.aws.door.sessions.items() if role == ROLE}
    assert sessions, "AssumeRole was called"
    assert {name for role, name in running.aws.door.sessions.values() if role == ROLE} == {JOB}
    key = DATASET.removeprefix("s3://bucket/")
    readers = {call.access_key for call in running.aws.door.calls if call.key == key and call.operation == "GetObject"}
    assert readers
    assert readers <= sessions
    assert OWN_KEY not in readers


def test_the_output_matches_its_manifest_and_nothing_else_is_there(output):
    manifest = json.loads(output["manifest.json"])
    files = {file["path"]: file for file in manifest["files"]}
    assert set(output) == {*files, "manifest.json"}, "and no staging"
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "provenance.json"} <= set(files)
    for path, file in files.items():
        assert hashlib.sha256(output[path]).hexdigest() == file["sha256"]
        assert len(output[path]) == file["size_bytes"]
    assert json.loads(output["adapter_config.json"])["base_model_name_or_path"] == MODEL


def test_the_logs_of_every_rank_are_at_their_place(running, job):
    logs = running.aws.contents(LOGS)
    ranks = {f"attempt-1/rank-{rank}" for rank in range(4)}
    assert {name.rpartition("/")[0] for name in logs} - {"attempt-1"} == {*ranks, "tensorboard"}
    assert [name for name in logs if name.rpartition("/")[0] == "attempt-1"] == ["attempt-1/audit.json"]
    assert all(logs.values())
    curves = "tensorboard/events.out.tfevents.000001"
    assert logs[curves] == running.aws.contents(OUTPUT)[curves]


async def test_the_webhook_got_the_header_and_the_events_it_is_sent_by_default(running, job):
    await eventually(lambda: running.webhook.events(JOB)[-1]["type"] == "job.succeeded")
    calls = running.webhook.calls(JOB)
    assert {call.headers["authorization"] for call in calls} == {"Bearer mytoken"}
    assert {(call.host, call.path) for call in calls} == {("webhook.internal", "/train-status")}
    assert [event["type"] for event in running.webhook.events(JOB)] == ["job.queued", "job.started", "job.succeeded"]


async def test_the_status_stream_got_every_event_in_order_and_never_the_header(running, job):
    history = running.history(JOB)
    await eventually(lambda: len(running.events.events(JOB)) >= len(history))
    calls = running.events.calls(JOB)
    assert {(call.host, call.path) for call in calls} == {("events.internal", "/job-id")}
    assert not [call for call in calls if "authorization" in call.headers]
    assert {call.headers["content-type"] for call in calls} == {"application/cloudevents-batch+json"}
    received = [int(event["data"]["sequence"]) for event in running.events.events(JOB)]
    assert received == list(range(1, len(history) + 1))
    assert [event["type"] for event in running.events.events(JOB)] == [event["type"] for event in history]
    assert max(math.inf if event["data"]["job_id"] != JOB else 0 for event in running.events.events(JOB)) == 0


async def test_a_second_copy_under_another_id_is_refused_because_the_output_is_there(running, job, tmp_path):
    second = tmp_path / "second.json"
    second.write_bytes(SEED_FILE.read_bytes().replace(b"unique-train-id", b"a-second-copy"))
    before = running.aws.contents(OUTPUT)
    status, answer = running.curl(second)
    assert status == 200, answer
    ended = await eventually(
        lambda: (j := running.job("a-second-copy"))["state"] == "FAILED" and j, deadline_seconds=120
    )
    assert ended["reason"] == "OUTPUT_EXISTS"
    assert ended["message"].startswith("artifacts.output_uri")
    assert "artifacts.overwrite" in ended["message"]
    assert running.aws.contents(OUTPUT) == before


def test_neither_secret_was_anywhere_it_could_be_read_at_any_moment(running, job, sampler):
    for place in ("s3://bucket/models/", "s3://bucket/logs/"):
        for name, content in running.aws.contents(place).items():
            sampler.search(content, place + name)
    sampler.search(json.dumps([running.job(JOB), running.history(JOB)]).encode(), "the API's answers")
    for posted in running.events.posted:
        sampler.search(json.dumps(dict(posted.headers)).encode() + posted.body, "the status stream")
    for posted in running.webhook.posted:
        sampler.search(posted.body, "the webhook's body")
    sampler.__exit__()
    assert any("agent.trainer.rank" in command for command in sampler.seen_commands)
    assert any("agent.uploader" in command for command in sampler.seen_commands)
    assert sampler.leaks() == []
