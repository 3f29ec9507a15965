"""Logs, live and kept, and metrics, over a real channel."""

from __future__ import annotations

import json

import grpc
import pytest

from controlplane.domain import news as n
from controlplane.domain.metrics import Measured
from controlplane.engine.requests import AttemptReports, LogChunk, Report, ReportBatch
from tests.support.eventually import eventually
from tests.support.rpc import calling
from tests.support.world import Agent, world
from trainplane.v1 import job_service_pb2 as service


async def placed(here):
    agent = Agent(here)
    await agent.sync()
    return agent, await here.placed("j", agent)


async def write(here, ref, offset, text, rank=0):
    await here.logs.log(LogChunk("gpu-01", 1, ref, rank, offset, text.encode()))


async def end(agent, ref, first=1):
    await agent.report(ref, first, n.Started(1), n.Failed(1, "DATASET_EMPTY", ""))


def texts(message):
    return [(line.rank, line.text) for line in message.lines]


def events(sent):
    """(id, type, data) of server-sent events."""
    found = []
    for block in sent.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


async def test_a_log_is_followed_from_what_is_kept_to_the_end_of_the_job(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        agent, ref = await placed(here)
        await write(here, ref, 0, "one\n")
        call = jobs.WatchJobLogs(service.WatchJobLogsRequest(job_id="j"))
        first = await call.read()
        assert texts(first) == [(0, "one")]
        await write(here, ref, 0, "two\n", rank=1)
        assert texts(await call.read()) == [(1, "two")]
        await write(here, ref, 4, "last words")
        await end(agent, ref)
        assert texts(await call.read()) == [(0, "last words")]
        assert await call.read() is grpc.aio.EOF
        again = jobs.WatchJobLogs(service.WatchJobLogsRequest(job_id="j", position=first.position))
        assert [line async for page in again for line in texts(page)] == [(0, "last words"), (1, "two")]


async def test_as_server_sent_events_each_line_has_an_id_to_resume_from_and_the_end_is_told(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        agent, ref = await placed(here)
        await write(here, ref, 0, "a\nb\n\u2028 ü\r\n")
        await write(here, ref, 0, "r\n", rank=1)
        await end(agent, ref)
        sent = b"".join([message.data async for message in jobs.StreamLogs(service.StreamLogsRequest(job_id="j"))])
        *lines, (nothing, kind, data) = events(sent)
        assert (nothing, kind, data) == (None, "end", {})
        assert [(data["attempt"], data["rank"], data["text"]) for _, _, data in lines] == [
            (1, 0, "a"),
            (1, 0, "b"),
            (1, 0, "\u2028 ü"),
            (1, 1, "r"),
        ]
        for number, (position, kind, _) in enumerate(lines, 1):
            assert kind == "line"
            rest = jobs.StreamLogs(service.StreamLogsRequest(job_id="j"), metadata=[("last-event-id", position)])
            assert events(b"".join([message.data async for message in rest]))[:-1] == lines[number:]
        by_query = jobs.StreamLogs(service.StreamLogsRequest(job_id="j", position=lines[2][0]))
        assert events(b"".join([message.data async for message in by_query]))[:-1] == lines[3:]


@pytest.mark.parametrize("forged", ["x", "-1", "1.0", "1.0-1;DROP", "9" * 5000, "1.0-99999999999999999999"])
async def test_a_forged_position_is_refused_naming_the_field(tmp_path, forged):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await placed(here)
        for call in (
            jobs.WatchJobLogs(service.WatchJobLogsRequest(job_id="j", position=forged)).read(),
            jobs.StreamLogs(service.StreamLogsRequest(job_id="j", position=forged)).read(),
            jobs.StreamLogs(service.StreamLogsRequest(job_id="j"), metadata=[("last-event-id", forged)]).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as found:
                await call
            assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert found.value.details().startswith("position: ")


async def test_a_reader_that_goes_away_leaves_nothing_behind(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        _, ref = await placed(here)
        await write(here, ref, 0, "one\n")
        call = jobs.WatchJobLogs(service.WatchJobLogsRequest(job_id="j"))
        await call.read()
        await eventually(lambda: here.log_hints._waiting)
        call.cancel()
        await eventually(lambda: not here.log_hints._waiting)


async def test_metrics_are_shown_thinned_to_what_was_asked_for(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        agent, ref = await placed(here)
        steps = list(range(1, 401))
        measured = Measured(steps, {"loss": [1 / step for step in steps], "learning_rate": [2e-4] * 400})
        rows = AttemptReports(ref, 1, [Report(0, n.Started(1)), Report(0, None, measured=measured)])
        await here.intake.report(ReportBatch(agent.node, agent.incarnation, [rows]))
        whole = await jobs.ListMetrics(service.ListMetricsRequest(job_id="j"))
        assert [(each.name, len(each.steps)) for each in whole.series] == [("learning_rate", 400), ("loss", 400)]
        assert list(whole.series[1].steps) == steps
        thin = await jobs.ListMetrics(service.ListMetricsRequest(job_id="j", max_points=10))
        assert all(len(each.steps) == len(each.values) <= 10 for each in thin.series)
        assert {1, 400} <= set(thin.series[1].steps)


async def test_checkpoints_are_listed_with_where_they_lie(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1), n.Checkpointed(1, 10, 2**40, "ab", 10))
        answer = await jobs.ListCheckpoints(service.ListCheckpointsRequest(job_id="j"))
        [found] = answer.checkpoints
        assert (found.step, found.attempt, found.node, found.size_bytes) == (10, 1, "gpu-01", 2**40)
        assert found.manifest_digest == "ab"
        assert found.create_time.ToMicroseconds() > 0


@pytest.mark.parametrize("most", [-1, 1, 9, 1501, 2**31 - 1])
async def test_how_many_points_is_bounded(tmp_path, most):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await placed(here)
        with pytest.raises(grpc.aio.AioRpcError) as found:
            await jobs.ListMetrics(service.ListMetricsRequest(job_id="j", max_points=most))
        assert found.value.details() == f"max_points: must be from 10 to 1500, got {most}"


async def test_the_largest_answer_of_metrics_fits_through_the_gateway(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        agent, ref = await placed(here)
        await agent.report(ref, 1, n.Started(1))
        for at in range(4):
            steps = [10**9 + at * 500 + step for step in range(500)]
            series = {
                f"{number:x>63}": [-1.2345678901234567e-101 * step for step in steps] for number in "abcdefghijklmnop"
            }
            rows = AttemptReports(ref, 2 + at, [Report(0, None, measured=Measured(steps, series))])
            await here.intake.report(ReportBatch(agent.node, agent.incarnation, [rows]))
        answer = await jobs.ListMetrics(service.ListMetricsRequest(job_id="j", max_points=1500))
        assert sum(len(each.steps) for each in answer.series) == 16 * 1500
        as_json = sum(len(repr(value)) + 1 for each in answer.series for value in (*each.steps, *each.values))
        assert as_json < 1024 * 1024  # the gateway's buffer
