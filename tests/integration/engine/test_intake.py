"""Recording reports: each exactly once, whatever is repeated, missing or wrong."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from controlplane.domain import news as n
from controlplane.domain.attempt import AttemptState
from controlplane.domain.errors import JobNotFound
from controlplane.domain.job import Progress, State
from controlplane.domain.metrics import Measured
from controlplane.domain.node import AttemptRef
from controlplane.engine.ports import OutcomeUnknown
from controlplane.engine.requests import AttemptReports, Output, OutputFile, Report, ReportBatch
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, world

OUTPUT = Output("file:///out/j/", "d1", (OutputFile("adapter_model.safetensors", 10, "ab"),))


def step(number):
    return n.Progressed(1, Progress(number, 100))


async def placed(here, job_id="j", **agent):
    node = Agent(here, **agent)
    await node.sync()
    return node, await here.placed(job_id, node)


def applied(answer):
    assert answer.outcome == "APPLIED"
    return [(mark.applied, mark.stale) for mark in answer.watermarks]


async def row(here, ref, node="gpu-01"):
    return (await here.store.read(lambda tx: tx.attempt_nodes([ref], node)))[ref]


@in_virtual_time
async def test_repeats_and_overlaps_are_recorded_once(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        assert applied(await agent.report(ref, 1, n.Started(1), step(1))) == [(2, False)]
        assert applied(await agent.report(ref, 1, n.Started(1), step(1))) == [(2, False)]
        assert applied(await agent.report(ref, 2, step(1), step(2), step(3))) == [(4, False)]
        assert applied(await agent.report(ref, 1, n.Started(1))) == [(4, False)]
        assert (await here.types("j")).count("job.progress") == 3


@in_virtual_time
async def test_a_gap_is_answered_with_where_to_begin_again(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        assert applied(await agent.report(ref, 3, step(3))) == [(0, False)]
        assert applied(await agent.report(ref, 1, n.Started(1))) == [(1, False)]
        assert applied(await agent.report(ref, 3, step(3))) == [(1, False)]
        assert await here.types("j") == ["job.queued", "job.starting", "job.started"]


@in_virtual_time
async def test_a_batch_whose_answer_was_lost_changes_nothing_the_second_time(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        here.store.unanswered = OutcomeUnknown("lost")
        batch = [ref, 1, n.Started(1), step(1), n.Failed(1, "DATASET_EMPTY", "no rows")]
        with pytest.raises(OutcomeUnknown):
            await agent.report(*batch)
        here.store.unanswered = None
        before = (await here.job("j"), await here.attempt(ref), await here.types("j"))
        assert applied(await agent.report(*batch)) == [(3, False)]
        assert (await here.job("j"), await here.attempt(ref), await here.types("j")) == before


@in_virtual_time
async def test_a_transaction_that_runs_twice_records_once(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        here.store.twice = True
        await agent.report(ref, 1, n.Started(1), step(1), step(2))
        assert (await here.types("j")).count("job.progress") == 2
        assert len(here.recent.after(ref.job_uid, 2, limit=10)) == 3


@in_virtual_time
async def test_an_attempt_may_occur_twice_in_a_batch_and_an_unknown_one_is_stale(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        unknown, foreign = AttemptRef("01KNOBODY", 1), AttemptRef(ref.job_uid, 9)
        rows = [
            AttemptReports(unknown, 1, [Report(0, step(1))]),
            AttemptReports(ref, 1, [Report(0, n.Started(1))]),
            AttemptReports(foreign, 1, [Report(0, step(1))]),
            AttemptReports(ref, 2, [Report(0, step(1)), Report(0, step(2))]),
        ]
        answer = await here.intake.report(ReportBatch("gpu-01", agent.incarnation, rows))
        marks = {mark.attempt: (mark.applied, mark.stale) for mark in answer.watermarks}
        assert marks == {unknown: (0, True), ref: (3, False), foreign: (0, True)}
        assert (await here.types("j")).count("job.progress") == 2


@in_virtual_time
async def test_another_node_cannot_report_for_an_attempt(tmp_path):
    async with world(tmp_path) as here:
        _, ref = await placed(here)
        other = Agent(here, "gpu-02")
        await other.sync()
        assert applied(await other.report(ref, 1, n.Failed(1, "STALLED", "lies"))) == [(0, True)]
        assert (await here.job("j")).state is State.STARTING


@in_virtual_time
async def test_an_older_agent_s_reports_and_those_before_the_first_sync_are_not_recorded(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        assert (await Agent(here).report(ref, 1, n.Started(1))).outcome == "NOT_NOW"
        assert (await Agent(here, "nobody").report(ref, 1, n.Started(1))).outcome == "NOT_NOW"
        await Agent(here).sync()
        assert (await agent.report(ref, 1, n.Started(1))).outcome == "SUPERSEDED"
        assert (await row(here, ref)).applied == 0


@in_virtual_time
async def test_what_ends_an_attempt_frees_its_devices_once_and_keeps_its_first_reason(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", "no rows"))
        ended = await here.attempt(ref)
        assert (ended.state, ended.reason) == (AttemptState.ENDED, "DATASET_EMPTY")
        assert (await here.job("j")).state is State.FAILED
        assert applied(await agent.report(ref, 3, n.Stopped(1, "CANCELLED"), n.Failed(1, "STALLED", "x"))) == [
            (4, False)
        ]
        assert await here.attempt(ref) == ended
        assert (await here.types("j"))[-1] == "job.failed"


@in_virtual_time
async def test_reports_of_a_lost_attempt_change_nothing_but_its_devices(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here, gpus=1)
        await agent.report(ref, 1, n.Started(1))
        await asyncio.sleep(40)
        await here.recorder.write(here.nodes.give_up_silent)
        before = await here.job("j")
        assert applied(await agent.report(ref, 2, step(5), n.Stopped(1, "LOST"))) == [(3, False)]
        assert await here.job("j") == before
        assert (await here.attempt(ref)).state is AttemptState.ENDED


@in_virtual_time
async def test_an_unreadable_report_counts_and_changes_nothing(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        assert applied(await agent.report(ref, 1, None, n.Started(1), None, step(1))) == [(4, False)]
        assert await here.types("j") == ["job.queued", "job.starting", "job.started", "job.progress"]


@in_virtual_time
async def test_checkpoints_are_told_and_listed_and_those_that_are_gone_forgotten(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        saved = [n.Checkpointed(1, step, step * 100, f"d{step}", max(step - 10, 10)) for step in (10, 20, 30)]
        rows = (n.Started(1), *saved)
        assert applied(await agent.report(ref, 1, *rows)) == [(4, False)]
        assert applied(await agent.report(ref, 1, *rows)) == [(4, False)]
        events = await here.jobs.events("j", project="default", after=0, limit=50)
        told = [each for each in events if each.type == "job.checkpoint_saved"]
        assert [json.loads(each.json)["data"]["message"] for each in told] == ["step 10", "step 20", "step 30"]
        found = await here.jobs.checkpoints("j", project="default")
        assert [(c.attempt, c.step, c.node, c.size_bytes, c.manifest_digest) for c in found] == [
            (1, 30, "gpu-01", 3000, "d30"),
            (1, 20, "gpu-01", 2000, "d20"),
        ]


@in_virtual_time
async def test_a_checkpoint_of_an_attempt_that_is_over_is_not_listed(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))
        assert applied(await agent.report(ref, 3, n.Checkpointed(1, 10, 1, "d", 10))) == [(3, False)]
        assert await here.jobs.checkpoints("j", project="default") == []
        assert (await here.types("j"))[-1] == "job.failed"


@in_virtual_time
async def test_what_was_granted_and_published_succeeds_with_its_artifacts(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1), n.Finished(1))
        await agent.commit(ref, "d1")
        await agent.report(ref, 3, n.Published(1), output=OUTPUT)
        assert (await here.job("j")).state is State.SUCCEEDED
        artifacts = await here.jobs.artifacts("j", project="default")
        assert [(a.path, a.uri) for a in artifacts] == [
            ("adapter_model.safetensors", "file:///out/j/adapter_model.safetensors")
        ]
        await agent.report(ref, 3, n.Published(1), output=OUTPUT)
        assert (await here.types("j")).count("job.succeeded") == 1


@in_virtual_time
async def test_what_was_published_without_a_grant_never_succeeds_nor_stops_the_others_reports(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        other = await here.placed("other", agent)
        rows = [
            AttemptReports(ref, 1, [Report(0, n.Started(1)), Report(0, n.Published(1), OUTPUT)]),
            AttemptReports(other, 1, [Report(0, n.Started(1)), Report(0, step(1))]),
        ]
        answer = await here.intake.report(ReportBatch("gpu-01", agent.incarnation, rows))
        assert applied(answer) == [(2, False), (2, False)]
        assert (await here.job("other")).progress.step == 1
        assert (await here.job("j")).state is State.RECOVERING  # nothing of it is left on its node
        assert (await here.attempt(ref)).state is AttemptState.ENDED
        assert await here.jobs.artifacts("j", project="default") == []


@in_virtual_time
async def test_what_was_published_is_what_was_granted_or_the_job_fails(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1))
        await agent.commit(ref, "another digest")
        await agent.report(ref, 2, n.Published(1), output=OUTPUT)
        job = await here.job("j")
        assert (job.state, job.reason) == (State.FAILED, "ARTIFACTS_LOST")
        assert await here.jobs.artifacts("j", project="default") == []


@in_virtual_time
async def test_the_end_of_a_job_erases_its_secrets_but_the_delivery_s(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        secret = {"base_model": {"provider": "local", "model_name": "/m", "auth_token": "hf_canary"}}
        hooked = secret | {"callbacks": {"webhook_url": "https://h.example.com/", "auth_header": "Bearer canary"}}
        plain, told = await here.placed("plain", agent, **secret), await here.placed("told", agent, **hooked)
        for ref in (plain, told):
            await agent.report(ref, 1, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))
        sealed = [await here.store.read(lambda tx, u=r.job_uid: tx.sealed_secrets(u)) for r in (plain, told)]
        assert sealed[0].sealed == b""
        assert here.vault.open(sealed[1].sealed, uid=told.job_uid) == {"callbacks.auth_header": "Bearer canary"}


def points(*steps, **series):
    return Report(0, None, measured=Measured(list(steps), series or {"loss": [1.0 / step for step in steps]}))


async def report(agent, ref, first, *reports):
    rows = AttemptReports(ref, first, list(reports))
    return await agent.world.intake.report(ReportBatch(agent.node, agent.incarnation, [rows]))


async def shown(here, job_id="j", most=500):
    curves = await here.metrics.curves(job_id, project="default", most=most)
    return {name: dict(zip(curve.steps, curve.values, strict=True)) for name, curve in curves.items()}


async def test_points_are_recorded_once_and_are_no_event(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        assert await shown(here) == {}
        started = Report(0, n.Started(1))
        assert applied(await report(agent, ref, 1, started, points(1, 2), points(3))) == [(3, False)]
        assert applied(await report(agent, ref, 1, started, points(1, 2), points(3))) == [(3, False)]
        assert applied(await report(agent, ref, 3, points(3), points(4, loss=[0.25], grad_norm=[7.0]))) == [(4, False)]
        assert await shown(here) == {"loss": {1: 1.0, 2: 0.5, 3: 1 / 3, 4: 0.25}, "grad_norm": {4: 7.0}}
        assert await here.types("j") == ["job.queued", "job.starting", "job.started"]
        with pytest.raises(JobNotFound):
            await shown(here, "k")


async def test_a_series_without_a_value_is_not_shown(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        nothing = [float("nan")] * 2
        await report(agent, ref, 1, Report(0, n.Started(1)), points(1, 2, loss=[2.0, 1.0], grad_norm=nothing))
        assert await shown(here) == {"loss": {1: 2.0, 2: 1.0}}


async def test_points_of_an_attempt_that_is_over_are_not_recorded_and_count(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        ends = Report(0, n.Failed(1, "TRAINER_CRASHED", ""))
        assert applied(await report(agent, ref, 1, Report(0, n.Started(1)), points(1), ends, points(2))) == [(4, False)]
        assert await shown(here) == {"loss": {1: 1.0}}


async def test_a_later_attempt_s_points_replace_those_from_its_first_step_on(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        first = [points(step, loss=[1.0]) for step in range(1, 6)]
        await report(agent, ref, 1, Report(0, n.Started(1)), *first, Report(0, n.Failed(1, "TRAINER_CRASHED", "")))
        await here.store.write(
            lambda tx: tx.save_jobs([replace(tx.job(ref.job_uid), state=State.QUEUED, not_before_us=0)])
        )
        await here.dispatcher.round()
        again = AttemptRef(ref.job_uid, 2)
        await agent.claim(again)
        await report(agent, again, 1, Report(0, n.Started(2)), points(4, loss=[2.0]))
        assert await shown(here) == {"loss": {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0}}


async def test_a_long_curve_is_read_page_by_page_and_thinned(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        await report(agent, ref, 1, Report(0, n.Started(1)))
        for first in range(0, 1000, 100):
            chunks = [points(*range(1 + at * 5, 6 + at * 5)) for at in range(first, first + 100)]
            await report(agent, ref, 2 + first, *chunks)
        assert len((await shown(here, most=5000))["loss"]) == 5000
        thin = (await shown(here, most=100))["loss"]
        assert len(thin) <= 100
        assert {1, 5000} <= set(thin)


@in_virtual_time
async def test_the_commit_that_an_attempt_fetched_is_the_jobs_and_starts_nothing(tmp_path):
    async with world(tmp_path) as here:
        agent, ref = await placed(here)
        fetching = n.PhaseChanged(1, "FETCHING_MODEL", "1 of 13 GB")
        assert applied(await agent.report(ref, 1, fetching, n.Fetched(1, "0123abcd"))) == [(2, False)]
        record = (await here.jobs.get("j", project="default")).record
        assert (record.base_model_commit, record.job.state) == ("0123abcd", State.STARTING)
        assert (record.job.phase, record.job.message) == ("FETCHING_MODEL", "1 of 13 GB")
        assert applied(await agent.report(ref, 3, n.Started(1), n.Failed(1, "TRAINER_CRASHED", "x"))) == [(4, False)]
        assert applied(await agent.report(ref, 5, n.Fetched(1, "late"))) == [(5, False)]
        async with here.loops("dispatcher"):
            await asyncio.sleep(10)
        assert (await here.job("j")).attempt == 2
        assert applied(await agent.report(ref, 6, n.Fetched(1, "of another attempt"))) == [(6, False)]
        record = (await here.jobs.get("j", project="default")).record
        assert record.base_model_commit == "late"
