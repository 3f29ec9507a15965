"""From POST to a published output, with the fake trainer: events, logs, artifacts, listeners, both doors."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody

from tests.support.eventually import eventually
from tests.support.stack import mock_spec, stubs
from trainplane.v1 import job_service_pb2 as service
from trainplane.wire import subjects
from trainplane.wire.settling import settled


def post(stack, spec):
    status, job = stack.http("POST", "/train", json.dumps(spec).encode())
    assert status == 200, job
    return job


async def until(stack, job_id, *states):
    """The job once it is in one of these states; another final one fails at once, saying why."""

    def there():
        job = stack.http("GET", f"/train/{job_id}")[1]
        if job["state"] in states:
            return job
        if job["state"] in {"SUCCEEDED", "FAILED", "CANCELLED"}:
            pytest.fail(f"{job_id} is {job['state']}: {job['reason']} {job['message']}")
        return None

    return await eventually(there)


async def watched(stack, job_id, after=0):
    async with stubs(stack.address) as (jobs, _):
        request = service.WatchJobRequest(job_id=job_id, after_sequence=after)
        return [event async for event in jobs.WatchJob(request) if event.sequence]


async def test_a_job_succeeds_and_its_output_is_whole_and_matches_the_manifest(stack, node, tmp_path):
    post(
        stack,
        mock_spec(
            "way-1", tmp_path / "out", steps=5, step_seconds=0.05, log_lines=2, eval_loss=True, checkpoint_every=1
        ),
    )
    events = await asyncio.wait_for(watched(stack, "way-1"), 40)
    types = [event.type for event in events]
    assert types[:3] == ["job.queued", "job.starting", "job.started"]
    assert types[-1] == "job.succeeded"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    progress = [event.progress for event in events if event.type == "job.progress"]
    assert progress[-1].step == progress[-1].total_steps == 5
    assert (progress[-1].eval_loss_before, progress[-1].eval_loss) == (2.6, 1.3)
    assert events[-1].progress == progress[-1]

    job = await until(stack, "way-1", "SUCCEEDED")
    assert job["attempts"][0]["node"] == node
    assert job["progress"]["step"] == 5
    assert [event.message for event in events if event.type == "job.checkpoint_saved"] == [
        f"step {step}" for step in range(1, 6)
    ]
    checkpoints = stack.http("GET", "/train/way-1/checkpoints")[1]["checkpoints"]
    assert [(each["step"], each["attempt"], each["node"]) for each in checkpoints] == [(5, 1, node), (4, 1, node)]
    artifacts = stack.http("GET", "/train/way-1/artifacts")[1]["artifacts"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert {a["path"] for a in artifacts} == {f["path"] for f in manifest["files"]}
    for artifact in artifacts:
        content = Path(artifact["uri"].removeprefix("file://")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        assert len(content) == artifact["size_bytes"]
    assert not (tmp_path / "out" / ".attempts").exists()


async def test_logs_are_still_there_after_the_job_ended_and_page_without_a_gap(stack, node, tmp_path):
    post(stack, mock_spec("way-logs", tmp_path / "out", steps=20, step_seconds=0.01, log_lines=50))
    await until(stack, "way-logs", "SUCCEEDED")
    lines, token = [], ""
    while True:
        page = stack.http("GET", f"/train/way-logs/logs?page_size=300&page_token={token}")[1]
        lines += [line["text"] for line in page.get("lines", [])]
        token = page.get("next_page_token", "")
        if not token:
            break
    written = (await asyncio.to_thread(lambda: lines)).copy()
    assert len(written) >= 1000
    assert len(set(written)) == len(written), "a line came twice"


async def test_server_sent_events_resume_from_the_last_id(stack, node, tmp_path):
    post(stack, mock_spec("way-sse", tmp_path / "out", steps=3, step_seconds=0.01))
    await until(stack, "way-sse", "SUCCEEDED")

    async def streamed(**headers):
        reader, writer = await asyncio.open_connection(*stack.url.removeprefix("http://").split(":"))
        lines = ["GET /train/way-sse:watch HTTP/1.1", f"host: {stack.url[7:]}", "connection: close"]
        lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        text = (await asyncio.wait_for(reader.read(), 20)).decode()
        writer.close()
        return text

    whole = await streamed()
    assert "content-type: text/event-stream" in whole
    ids = [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert "event: job.succeeded" in whole
    rest = await streamed(last_event_id=str(ids[-2]))
    assert [int(line[4:]) for line in rest.splitlines() if line.startswith("id: ")] == ids[-1:]


async def test_a_nats_subscriber_without_credentials_gets_the_same_json(stack, node, tmp_path):
    client = await stack.natsd.connect()
    try:
        heard = await client.subscribe(subjects.events(job_id="way-nats"))
        await settled(client)
        post(stack, mock_spec("way-nats", tmp_path / "out", steps=2, step_seconds=0.01))
        await until(stack, "way-nats", "SUCCEEDED")
        got = []
        while not got or got[-1]["type"] != "job.succeeded":
            got.append(json.loads((await heard.next_msg(timeout=60)).data))
    finally:
        await client.close()
    assert [event["data"]["sequence"] for event in got] == list(range(1, len(got) + 1))
    assert got[0]["specversion"] == "1.0"
    assert got[0]["id"].endswith(".1")


async def test_fifty_identical_submits_at_once_are_one_job(stack, tmp_path):
    spec = mock_spec("way-same", tmp_path / "out") | {"placement": {"node": "nowhere"}}
    body = HttpBody(content_type="application/json", data=json.dumps(spec).encode())
    async with stubs(stack.address) as (jobs, _):
        answers = await asyncio.gather(*(jobs.SubmitTraining(body) for _ in range(50)))
        assert len({job.uid for job in answers}) == 1
        listed = await jobs.ListJobs(service.ListJobsRequest(page_size=500))
        assert [job.job_id for job in listed.jobs].count("way-same") == 1
        events = await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="way-same"))
        assert [event.type for event in events.events] == ["job.queued"]


async def test_a_running_job_is_cancelled_with_its_whole_process_tree(stack, node, tmp_path):
    job = post(stack, mock_spec("way-cancel", tmp_path / "out", hang_at_step=1, ignore_sigterm=True, grandchild=True))
    await until(stack, "way-cancel", "RUNNING")
    attempt = stack.directory / node / "attempts" / f"{job['uid']}.1"
    # The file is there before what it says.
    pids = await eventually(
        lambda: [int(said) for file in attempt.rglob("grandchild.pid") if (said := file.read_text())]
    )
    assert stack.http("POST", "/train/way-cancel:cancel", b"{}")[1]["state"] == "CANCELLING"
    await until(stack, "way-cancel", "CANCELLED")
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    freed = next(n for n in stack.http("GET", "/nodes")[1]["nodes"] if n["name"] == node)
    assert freed["cpus_free"] == freed["cpus"]


async def test_a_crash_is_tried_again_and_the_failure_has_the_log_s_last_words(stack, node, tmp_path):
    post(stack, mock_spec("way-crash", tmp_path / "out", crash_at_step=2, step_seconds=0.01) | {"max_attempts": 2})
    job = await until(stack, "way-crash", "FAILED")
    assert (job["reason"], job["attempt"]) == ("TRAINER_CRASHED", 2)
    assert [a["reason"] for a in job["attempts"]] == ["TRAINER_CRASHED"] * 2
    types = [e["type"] for e in stack.http("GET", "/train/way-crash/events")[1]["events"]]
    assert types.count("job.recovering") == 1
    assert types.count("job.started") == 2


async def test_devices_are_exclusive_and_a_waiting_job_gets_them_next(stack, node, tmp_path):
    both = {"resources": {"gpus": 1, "gpu_type": "L4", "cpus": 8}}
    post(stack, mock_spec("way-first", tmp_path / "a", hang_at_step=1) | both)
    await until(stack, "way-first", "RUNNING")
    holder = next(n for n in stack.http("GET", "/nodes")[1]["nodes"] if n["name"] == node)
    assert [gpu.get("job_id", "") for gpu in holder["gpus"]] == ["way-first", ""]
    post(stack, mock_spec("way-second", tmp_path / "b", steps=1) | both)
    waiting = await eventually(lambda: (j := stack.http("GET", "/train/way-second")[1])["pending_reason"] and j)
    assert "needs 8 CPUs" in waiting["pending_reason"]
    stack.http("POST", "/train/way-first:cancel", b"{}")
    await until(stack, "way-second", "SUCCEEDED")


async def test_lists_page_newest_first_and_filter_by_state_and_label(stack, tmp_path):
    for number in range(5):
        spec = mock_spec(f"way-list-{number}", tmp_path / str(number)) | {"labels": {"suite": "list"}}
        post(stack, spec | {"placement": {"node": "nowhere"}})
    found, token = [], ""
    while True:
        status, page = stack.http("GET", f"/train?page_size=2&label=suite%3Dlist&state=QUEUED&page_token={token}")
        assert status == 200, page
        found += [job["job_id"] for job in page["jobs"]]
        token = page.get("next_page_token", "")
        if not token:
            break
    assert found == [f"way-list-{number}" for number in reversed(range(5))]
    assert stack.http("GET", "/train?label=suite%3Dlist&state=RUNNING")[1].get("jobs", []) == []


async def test_the_typed_door_takes_the_same_spec_and_validates_without_storing(stack):
    from trainplane.v1.training_spec_pb2 import TrainingSpec

    spec = TrainingSpec(**mock_spec("way-typed", Path("/tmp/typed")))
    async with stubs(stack.address) as (jobs, _):
        preview = await jobs.CreateJob(service.CreateJobRequest(spec=spec, validate_only=True))
        assert preview.effective_spec.tuning_parameters.learning_rate == pytest.approx(2e-4)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await jobs.GetJob(service.GetJobRequest(job_id="way-typed"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        unknown = TrainingSpec.FromString(spec.SerializeToString() + b"\xba\x3e\x03new")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await jobs.CreateJob(service.CreateJobRequest(spec=unknown))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
