"""Parts die and come back: jobs are delayed, not lost, and nothing happens twice."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from google.api.httpbody_pb2 import HttpBody

from tests.support.eventually import eventually
from tests.support.stack import mock_spec, stubs
from trainplane.demo.subscriber import follow
from trainplane.v1 import job_pb2, node_pb2
from trainplane.v1 import job_service_pb2 as service
from trainplane.v1 import node_service_pb2 as node_service

State = job_pb2.Job.State


def body(spec) -> HttpBody:
    return HttpBody(content_type="application/json", data=json.dumps(spec).encode())


async def job_in(jobs, job_id, *states, deadline_seconds=60.0):
    async def there():
        job = await jobs.GetJob(service.GetJobRequest(job_id=job_id))
        return job if job.state in states else None

    return await eventually(there, deadline_seconds=deadline_seconds)


async def sequences(jobs, job_id):
    events = await jobs.ListJobEvents(service.ListJobEventsRequest(job_id=job_id))
    return [event.sequence for event in events.events], [event.type for event in events.events]


def trainer_pid(stack, node, uid) -> int:
    process = json.loads((stack.directory / node / "attempts" / f"{uid}.1" / "process.json").read_text())
    return process["pid"]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_killed_agent_takes_its_live_trainer_back(own_stack, tmp_path):
    own_stack.join("n1")
    async with stubs(own_stack.address) as (jobs, _):
        job = await jobs.SubmitTraining(body(mock_spec("back", tmp_path / "out", steps=60, step_seconds=0.1)))
        await job_in(jobs, "back", State.RUNNING)
        pid = trainer_pid(own_stack, "n1", job.uid)
        own_stack.agents["n1"].kill()
        assert Path(f"/proc/{pid}").exists()
        own_stack.join("n1")
        assert trainer_pid(own_stack, "n1", job.uid) == pid
        done = await job_in(jobs, "back", State.SUCCEEDED)
        assert (done.attempt, len(done.attempts)) == (1, 1)
        numbers, types = await sequences(jobs, "back")
        assert numbers == list(range(1, len(numbers) + 1))
        assert types.count("job.started") == 1
        assert gone(pid)


async def test_a_trainer_that_ends_while_its_agent_is_dead_is_still_published_once(own_stack, tmp_path):
    own_stack.join("n1")
    async with stubs(own_stack.address) as (jobs, _):
        job = await jobs.SubmitTraining(body(mock_spec("gone", tmp_path / "out", steps=8, step_seconds=0.1)))
        await job_in(jobs, "gone", State.RUNNING)
        attempt = own_stack.directory / "n1" / "attempts" / f"{job.uid}.1"
        own_stack.agents["n1"].kill()
        await eventually((attempt / "exit").exists)
        own_stack.join("n1")
        done = await job_in(jobs, "gone", State.SUCCEEDED)
        assert done.attempt == 1
        assert (tmp_path / "out" / "manifest.json").exists()


async def test_a_killed_control_plane_loses_no_acknowledged_job_and_no_report(own_stack, tmp_path):
    own_stack.join("n1")
    async with stubs(own_stack.address) as (jobs, _):
        await jobs.SubmitTraining(body(mock_spec("kept", tmp_path / "out", steps=30, step_seconds=0.1)))
        await job_in(jobs, "kept", State.RUNNING)
        waiting = mock_spec("waiting", tmp_path / "w") | {"placement": {"node": "nowhere"}}
        await jobs.SubmitTraining(body(waiting))
        own_stack.controlplane.kill()
    own_stack.start_controlplane()
    async with stubs(own_stack.address) as (jobs, _):
        assert (await jobs.GetJob(service.GetJobRequest(job_id="waiting"))).state == State.QUEUED
        done = await job_in(jobs, "kept", State.SUCCEEDED)
        assert done.attempt == 1
        numbers, types = await sequences(jobs, "kept")
        assert numbers == list(range(1, len(numbers) + 1))
        assert types.count("job.started") == types.count("job.succeeded") == 1


async def test_a_wiped_nats_store_loses_no_event_and_fails_no_job(own_stack, tmp_path):
    own_stack.join("n1")
    async with stubs(own_stack.address) as (jobs, _):
        await jobs.SubmitTraining(body(mock_spec("wiped", tmp_path / "out", steps=40, step_seconds=0.1)))
        await job_in(jobs, "wiped", State.RUNNING)
        own_stack.natsd.wipe()
        done = await job_in(jobs, "wiped", State.SUCCEEDED)
        assert done.attempt == 1
        numbers, _types = await sequences(jobs, "wiped")

        async with asyncio.timeout(40):
            replayed = [event async for event in follow(own_stack.natsd.url, "wiped")]
        assert [event["data"]["sequence"] for event in replayed] == numbers


async def test_a_silent_node_s_job_moves_to_another_and_its_devices_stay_charged(tmp_path):
    from tests.support.stack import Stack

    stack = Stack(tmp_path / "stack")
    stack.environment["TRAINPLANE_CONTROLPLANE_SYNC_INTERVAL"] = "0.3"
    stack.environment["TRAINPLANE_CONTROLPLANE_NODE_GRACE"] = "2"
    try:
        stack.start(gateway=False)
        agent = stack.join("n1", "--gpus", "1xL4")
        async with stubs(stack.address) as (jobs, nodes):
            spec = mock_spec("moves", tmp_path / "out", steps=50, step_seconds=0.1) | {"resources": {"gpus": 1}}
            job = await jobs.SubmitTraining(body(spec))
            await job_in(jobs, "moves", State.RUNNING)
            pid = trainer_pid(stack, "n1", job.uid)
            agent.process.send_signal(19)  # SIGSTOP: silent, and its trainer lives on
            await job_in(jobs, "moves", State.RECOVERING, State.QUEUED)
            there = (await nodes.ListNodes(node_service.ListNodesRequest())).nodes[0]
            assert (there.state, there.reason) == (node_pb2.Node.State.NOT_READY, "SILENT")
            assert there.gpus[0].job_id == "moves"
            stack.join("n2", "--gpus", "1xL4")
            done = await job_in(jobs, "moves", State.SUCCEEDED)
            assert [a.node for a in done.attempts] == ["n1", "n2"]
            assert done.attempts[0].reason == "NODE_LOST"
            agent.process.send_signal(18)  # SIGCONT: it is told to stop, and says so

            async def freed():
                first = (await nodes.ListNodes(node_service.ListNodesRequest())).nodes[0]
                return first.gpus[0].job_id == "" and gone(pid)

            await eventually(freed)
            assert (await jobs.GetJob(service.GetJobRequest(job_id="moves"))).state == State.SUCCEEDED
    finally:
        stack.stop()
