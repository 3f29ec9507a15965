"""A job that takes more memory than it asked for ends by itself alone, and is told in words what to ask for."""

from __future__ import annotations

import json

import pytest

from agent import cgroups
from tests.e2e.test_failures import body, job_in
from tests.support.eventually import eventually
from tests.support.stack import mock_spec, stubs
from trainplane.v1 import job_pb2

State = job_pb2.Job.State


@pytest.fixture(scope="module", autouse=True)
def bounds():
    found = cgroups.found()
    if "memory" not in found.enforced:
        pytest.skip(f"this host enforces no bounds: {found.shown()}")
    return found


@pytest.mark.parametrize("grandchild", [False, True])
async def test_it_fails_with_its_bound_and_its_peak_and_leaves_no_group(own_stack, tmp_path, bounds, grandchild):
    own_stack.join("n1")
    (ready,) = [
        json.loads(line) for line in own_stack.agents["n1"].log.read_text().splitlines() if "agent ready" in line
    ]
    assert ready["bounds"] == bounds.shown()
    spec = mock_spec("greedy", tmp_path / "out", eat_memory_mb=600, grandchild=grandchild, hang_at_step=1)
    spec |= {"resources": {"memory_gb": 0.125}, "max_attempts": 1}
    async with stubs(own_stack.address) as (jobs, _):
        await jobs.SubmitTraining(body(spec))
        job = await job_in(jobs, "greedy", State.FAILED)
        assert job.reason == "OUT_OF_MEMORY_HOST"
        assert job.message.startswith("resources.memory_gb: the trainer needed more than its 0.125 GiB")
        assert "at its peak it used 0.12 GiB; raise resources.memory_gb" in job.message
    attempts = own_stack.directory / "n1" / "attempts"
    await eventually(lambda: not list(attempts.iterdir()))
    assert not [path for base in bounds.bases for path in base.glob(f"trainplane-{job.uid}*")]


async def test_a_job_that_names_no_memory_is_not_bound(own_stack, tmp_path):
    own_stack.join("n1")
    async with stubs(own_stack.address) as (jobs, _):
        spec = mock_spec("free", tmp_path / "out", eat_memory_mb=1200, steps=1)
        await jobs.SubmitTraining(body(spec))
        await job_in(jobs, "free", State.SUCCEEDED)
