"""What a request would come to: judged as a submit judges it, told at once where it cannot run, and nothing stored."""

from __future__ import annotations

import json

import pytest

from controlplane.domain.errors import InvalidSpec
from controlplane.domain.job import State
from controlplane.engine.ports import JobFilter
from controlplane.engine.preparing import Asked
from tests.support.world import Agent, spec, world


async def look(here, made):
    return await here.preflights.look(json.dumps(made).encode(), project="default")


async def jobs(here):
    return [view.record.job.job_id for view in await here.jobs.page(JobFilter("default"), limit=10)]


async def test_every_violation_of_a_submit_is_told_and_nothing_else_is_looked_at(tmp_path):
    async with world(tmp_path) as here:
        bad = spec("j", customization={"method": "lora", "rank": 0}, nonsense=1)
        with pytest.raises(InvalidSpec) as refused:
            await here.submissions.submit(Asked(bad, "default"))
        found = await look(here, bad)
        assert (found.valid, found.feasible, found.judged) == (False, False, False)
        assert found.violations == refused.value.violations
        assert await jobs(here) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff"])
async def test_a_body_that_cannot_be_read_is_refused(tmp_path, body):
    async with world(tmp_path) as here:
        with pytest.raises(InvalidSpec):
            await here.preflights.look(body, project="default")


async def test_what_no_known_node_could_ever_run_is_said_in_words(tmp_path):
    async with world(tmp_path) as here:
        asked = spec("j", resources={"gpus": 4, "gpu_type": "A100"})
        assert (await look(here, asked)).infeasible_reason == "needs 4 x A100; no node has joined"
        await Agent(here, gpus=2).sync()
        found = await look(here, asked)
        assert (found.valid, found.feasible) == (True, False)
        assert found.infeasible_reason == "needs 4 x A100; no node has A100"
        four = await look(here, spec("j", resources={"gpus": 4}))
        assert four.infeasible_reason == "needs 4 x GPU; the largest node has 2"
        assert (await look(here, spec("j", resources={"gpus": 2}))).feasible
        assert await jobs(here) == []


async def test_what_would_have_to_wait_says_for_what(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=2)
        await agent.sync()
        await here.placed("first", agent, resources={"gpus": 2})
        found = await look(here, spec("second", resources={"gpus": 1}))
        assert found.feasible
        assert found.pending_reason == "needs 1 x GPU; the node that has GPUs has 0 free"


async def test_a_name_or_an_output_that_a_job_holds_is_a_violation_and_a_repeat_is_none(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j")
        assert (await look(here, spec("j"))).valid
        other = await look(here, spec("j", priority=7))
        (violation,) = other.violations
        assert (violation.field, violation.reason) == ("job_id", "JOB_EXISTS")
        assert "priority" in violation.description
        within = await look(here, spec("k", artifacts={"output_uri": "file:///out/j/deeper/"}))
        (violation,) = within.violations
        assert (violation.field, violation.reason) == ("artifacts.output_uri", "OUTPUT_IN_USE")
        assert (await here.job("j")).state is State.QUEUED
        assert await jobs(here) == ["j"]


async def test_a_secret_that_differs_makes_another_request_and_is_not_repeated(tmp_path):
    async with world(tmp_path) as here:
        model = {"provider": "local", "model_name": "/models/tiny", "auth_token": "hf_one"}
        await here.submit("j", base_model=model)
        (violation,) = (await look(here, spec("j", base_model=model | {"auth_token": "hf_two"}))).violations
        assert "base_model.auth_token" in violation.description
        assert "hf_" not in str(violation)
        assert (await look(here, spec("j", base_model=model))).valid
