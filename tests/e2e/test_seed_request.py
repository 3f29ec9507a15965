"""The users' own request, byte for byte, through Envoy, on a machine without an A100."""

from __future__ import annotations

import json

import pytest

from tests.support.eventually import eventually
from tests.support.stack import SEED

JOB = "unique-train-id"


@pytest.fixture(scope="module")
def submitted(stack, node):
    status, job = stack.http("POST", "/train", SEED)
    assert status == 200, job
    return job


def test_it_is_accepted_with_the_one_warning_and_every_default_shown(submitted):
    assert submitted["job_id"] == JOB
    assert submitted["state"] == "QUEUED"
    assert [(w["field"], w["reason"]) for w in submitted["warnings"]] == [("customization.qlora", "NO_EFFECT")]
    assert submitted["effective_spec"]["tuning_parameters"]["lr_scheduler"] == "linear"
    assert submitted["spec"]["customization"]["rank"] == 16
    assert submitted["webhook_signing_secret"].startswith("whsec_")
    assert submitted["output_uri"] == "s3://bucket/models/job-id/"


async def test_it_waits_and_says_why(stack, submitted):
    def waits():
        job = stack.http("GET", f"/train/{JOB}")[1]
        return job if job["pending_reason"] else None

    job = await eventually(waits)
    assert job["pending_reason"] == "needs 4 x A100; no node has A100"
    assert job["queue_position"] == 1
    assert "webhook_signing_secret" not in job or job["webhook_signing_secret"] == ""


def test_repeating_it_answers_the_same_job(stack, submitted):
    again = stack.http("POST", "/train", SEED)
    assert (again[0], again[1]["uid"]) == (200, submitted["uid"])
    relaid = json.dumps(json.loads(SEED), indent=None).encode()
    assert stack.http("POST", "/train", relaid)[1]["uid"] == submitted["uid"]


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (b'"rank": 16', b'"rank": 8', "customization.rank"),
        (b"Bearer mytoken", b"Bearer zzz999", "callbacks.auth_header"),
        (b"hf_xxx", b"hf_yyy", "base_model.auth_token"),
    ],
)
def test_a_changed_one_is_refused_naming_the_path_that_differs(stack, submitted, old, new, path):
    status, error = stack.http("POST", "/train", SEED.replace(old, new))
    assert status == 409
    info = next(d for d in error["details"] if d["@type"].endswith("ErrorInfo"))
    assert (info["reason"], info["metadata"]["differing"]) == ("JOB_EXISTS", path)
    assert "zzz999" not in json.dumps(error)
    assert "hf_yyy" not in json.dumps(error)


@pytest.mark.parametrize("place", [b"models/job-id/", b"models/job-id/below/", b"models/"])
def test_a_copy_under_another_name_is_refused_while_the_first_lives_naming_it(stack, submitted, place):
    copy = SEED.replace(b"unique-train-id", b"copy").replace(b"models/job-id/", place)
    status, error = stack.http("POST", "/train", copy)
    assert status == 400
    info = next(d for d in error["details"] if d["@type"].endswith("ErrorInfo"))
    assert (info["reason"], info["metadata"]["job_id"]) == ("OUTPUT_IN_USE", JOB)
    assert "artifacts.output_uri" in error["message"]
    assert stack.http("GET", "/train/copy")[0] == 404


def test_neither_secret_is_in_an_answer_or_on_disk_in_clear(stack, submitted):
    shown = json.dumps([stack.http("GET", f"/train/{JOB}")[1], stack.http("GET", "/train")[1], submitted])
    for secret in ("hf_xxx", "mytoken"):
        assert secret not in shown
        found = [p for p in stack.directory.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
        assert found == []


def test_it_can_be_cancelled_and_then_nothing_of_it_can_change(stack, submitted):
    status, job = stack.http("POST", f"/train/{JOB}:cancel", b"{}")
    assert (status, job["state"]) == (200, "CANCELLED")
    assert stack.http("POST", f"/train/{JOB}:cancel", b"{}")[1]["state"] == "CANCELLED"
    events = stack.http("GET", f"/train/{JOB}/events")[1]["events"]
    assert [e["type"] for e in events] == ["job.queued", "job.cancelled"]
