"""The real services over a real channel and a real SQLite store."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

import grpc
import pytest
from google.api.httpbody_pb2 import HttpBody
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.domain import news as n
from controlplane.domain.job import Progress
from controlplane.engine.ports import StoreUnavailable
from controlplane.engine.preparing import Asked
from controlplane.engine.watches import Watches
from controlplane.rpc.convert import spec_fields
from controlplane.rpc.pages import token
from controlplane.rpc.server import READINESS, Patience, PortTaken
from tests.support.eventually import eventually
from tests.support.rpc import calling, dialled, job_service, serving
from tests.support.world import Agent, spec, world
from trainplane.v1 import job_pb2, job_service_pb2_grpc
from trainplane.v1 import job_service_pb2 as service
from trainplane.v1 import node_service_pb2 as node_service
from trainplane.v1.training_spec_pb2 import TrainingSpec

State = job_pb2.Job.State


def body(made):
    return HttpBody(content_type="application/json", data=json.dumps(made).encode())


async def code(call):
    with pytest.raises(grpc.aio.AioRpcError) as found:
        await call
    return found.value.code().name


async def finished(here, job_id, steps=3):
    """A job that ran some steps and failed."""
    agent = Agent(here)
    await agent.sync()
    ref = await here.placed(job_id, agent)
    progress = [n.Progressed(1, Progress(i, steps)) for i in range(1, steps + 1)]
    for start in range(0, steps, 500):
        await agent.report(ref, 1 + start, *progress[start : start + 500])
    await agent.report(ref, steps + 1, n.Failed(1, "DATASET_EMPTY", "no rows"))


# pages


@pytest.mark.parametrize("forged", ["x", token(1), token("a", "b"), token("a"), "é", "A" * 5000])
async def test_a_forged_token_is_refused_and_a_foreign_one_does_no_harm(tmp_path, forged):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await here.submissions.submit(Asked(spec("j"), "default"))
        for call in (
            jobs.ListJobs(service.ListJobsRequest(page_token=forged)),
            jobs.ListJobEvents(service.ListJobEventsRequest(job_id="j", page_token=forged)),
            jobs.ListJobLogs(service.ListJobLogsRequest(job_id="j", page_token=forged)),
        ):
            answer = await asyncio.gather(call, return_exceptions=True)
            if isinstance(answer[0], Exception):  # a token of another list's may be one of this list's, too
                assert answer[0].code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "page_token" in answer[0].details()


async def test_a_position_far_beyond_the_end_is_an_empty_page(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await here.submissions.submit(Asked(spec("j"), "default"))
        far = 2**53 - 1
        events = await jobs.ListJobEvents(service.ListJobEventsRequest(job_id="j", page_token=token(far)))
        logs = await jobs.ListJobLogs(service.ListJobLogsRequest(job_id="j", page_token="999999999.0-999999999999999"))
        listed = await jobs.ListJobs(service.ListJobsRequest(page_token=token("0")))
        assert (list(events.events), list(logs.lines), list(listed.jobs)) == ([], [], [])


async def test_events_page_without_a_gap_and_negative_arguments_are_refused(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await finished(here, "j", 40)
        got, next_token = [], ""
        while True:
            page = await jobs.ListJobEvents(
                service.ListJobEventsRequest(job_id="j", page_size=7, page_token=next_token)
            )
            got += [event.sequence for event in page.events]
            next_token = page.next_page_token
            if not next_token:
                break
        assert got == list(range(1, (await here.job("j")).last_sequence + 1))
        request = service.ListJobEventsRequest
        assert await code(jobs.ListJobEvents(request(job_id="j", page_size=-1))) == "INVALID_ARGUMENT"
        assert await code(jobs.ListJobEvents(request(job_id="j", after_sequence=-1))) == "INVALID_ARGUMENT"
        assert await code(jobs.ListJobs(service.ListJobsRequest(page_size=-1))) == "INVALID_ARGUMENT"
        assert await code(jobs.ListJobLogs(service.ListJobLogsRequest(job_id="j", page_size=-5))) == "INVALID_ARGUMENT"


async def test_jobs_page_newest_first_also_where_answers_are_large(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        large = {"chat_template": "x" * 60_000}
        for i in range(9):
            made = spec(f"j{i}", labels={"n": str(i)}, tuning_parameters=large)
            await here.submissions.submit(Asked(made, "default"))
        got, pages, next_token = [], 0, ""
        while True:
            page = await jobs.ListJobs(service.ListJobsRequest(page_token=next_token))
            assert page.ByteSize() < 1024 * 1024
            got += [job.job_id for job in page.jobs]
            pages, next_token = pages + 1, page.next_page_token
            if not next_token:
                break
        assert got == [f"j{i}" for i in reversed(range(9))]
        assert pages > 1
        chosen = await jobs.ListJobs(service.ListJobsRequest(label=["n=3"], state=[State.QUEUED]))
        assert [job.job_id for job in chosen.jobs] == ["j3"]


@pytest.mark.parametrize(
    "request_", [{"state": [0]}, {"state": [99]}, {"label": ["x"]}, {"label": ["=v"]}, {"label": ["a=\0"]}], ids=str
)
async def test_a_filter_that_is_none_is_refused(tmp_path, request_):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        assert await code(jobs.ListJobs(service.ListJobsRequest(**request_))) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("name", ["", "nobody", "\0", "a/b", "../../etc", "x" * 64, "x" * 100_000, "ü", "a b", "'"])
async def test_a_job_that_cannot_be_is_not_found_by_any_call(tmp_path, name):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        for call in (
            jobs.GetJob(service.GetJobRequest(job_id=name)),
            jobs.CancelJob(service.CancelJobRequest(job_id=name)),
            jobs.ListJobEvents(service.ListJobEventsRequest(job_id=name)),
            jobs.ListJobLogs(service.ListJobLogsRequest(job_id=name)),
            jobs.ListArtifacts(service.ListArtifactsRequest(job_id=name)),
            jobs.ListCheckpoints(service.ListCheckpointsRequest(job_id=name)),
            jobs.ListMetrics(service.ListMetricsRequest(job_id=name)),
            jobs.WatchJobLogs(service.WatchJobLogsRequest(job_id=name)).read(),
            jobs.StreamLogs(service.StreamLogsRequest(job_id=name)).read(),
            jobs.WatchJob(service.WatchJobRequest(job_id=name)).read(),
            jobs.StreamEvents(service.StreamEventsRequest(job_id=name)).read(),
        ):
            assert await code(call) == "NOT_FOUND"


# submitting


async def test_both_doors_store_the_same_job_and_the_key_names_it(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        made = await jobs.SubmitTraining(body(spec("j")))
        typed = await jobs.CreateJob(service.CreateJobRequest(spec=TrainingSpec(**spec("j"))))
        assert typed.uid == made.uid
        nameless = spec()
        keyed = await jobs.SubmitTraining(body(nameless), metadata=[("idempotency-key", "key-1")])
        assert keyed.job_id == "key-1"
        again = service.CreateJobRequest(spec=TrainingSpec(**nameless))
        assert (await jobs.CreateJob(again, metadata=[("idempotency-key", "key-1")])).uid == keyed.uid
        bad = jobs.SubmitTraining(body(spec()), metadata=[("idempotency-key", "no spaces")])
        assert await code(bad) == "INVALID_ARGUMENT"
        assert await code(jobs.SubmitTraining(body(spec("j", priority=1)))) == "ALREADY_EXISTS"


async def test_what_a_job_really_runs_with_is_shown_alike_by_every_call(tmp_path):
    """Fixed at the first placement: the platform's defaults may have become others since."""
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        made = await jobs.SubmitTraining(body(spec("j")))
        fixed = spec_fields(made.effective_spec) | {"priority": 7}
        await here.store.write(lambda tx: tx.set_effective_spec(made.uid, json.dumps(fixed)))
        one = await jobs.GetJob(service.GetJobRequest(job_id="j"))
        (listed,) = (await jobs.ListJobs(service.ListJobsRequest())).jobs
        repeated = await jobs.SubmitTraining(body(spec("j")))
        assert [job.effective_spec.priority for job in (made, one, listed, repeated)] == [50, 7, 7, 7]


async def test_the_signing_secret_stands_in_answers_to_submits_with_a_listener_only(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        hook = {"callbacks": {"webhook_url": "https://hooks.example.com/x", "auth_header": "Bearer canary"}}
        first, again = (
            await jobs.SubmitTraining(body(spec("j", **hook))),
            await jobs.SubmitTraining(body(spec("j", **hook))),
        )
        assert first.webhook_signing_secret == again.webhook_signing_secret != ""
        assert not (await jobs.GetJob(service.GetJobRequest(job_id="j"))).HasField("webhook_signing_secret")
        assert not (await jobs.SubmitTraining(body(spec("k")))).webhook_signing_secret
        assert "canary" not in str(first)


async def test_numbers_that_are_none_are_violations_at_the_typed_door(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        made = TrainingSpec(**spec("j"))
        made.tuning_parameters.learning_rate = float("nan")
        made.backend_options["x"] = float("inf")
        assert await code(jobs.CreateJob(service.CreateJobRequest(spec=made))) == "INVALID_ARGUMENT"
        assert await code(jobs.CreateJob(service.CreateJobRequest(spec=TrainingSpec()))) == "INVALID_ARGUMENT"


async def test_the_largest_whole_numbers_can_be_shown_again(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        made = spec("j", tuning_parameters={"seed": 2**31 - 1}, priority=100)
        await jobs.SubmitTraining(body(made))
        assert (await jobs.GetJob(service.GetJobRequest(job_id="j"))).spec.tuning_parameters.seed == 2**31 - 1
        huge = b'{"backend_options":{"x":1' + b"0" * 400 + b"}}"
        assert await code(jobs.SubmitTraining(HttpBody(data=huge))) == "INVALID_ARGUMENT"


async def test_a_database_that_is_away_is_unavailable_and_the_next_call_works(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, nodes):
        await jobs.SubmitTraining(body(spec("j")))
        here.store.fails = StoreUnavailable("away")
        for call in (
            jobs.GetJob(service.GetJobRequest(job_id="j")),
            jobs.SubmitTraining(body(spec("k"))),
            jobs.WatchJob(service.WatchJobRequest(job_id="j")).read(),
            nodes.ListNodes(node_service.ListNodesRequest()),
        ):
            assert await code(call) == "UNAVAILABLE"
        here.store.fails = None
        assert (await jobs.GetJob(service.GetJobRequest(job_id="j"))).state == State.QUEUED


# streams


async def test_a_watch_and_its_server_sent_events_say_the_same_and_end(tmp_path):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await finished(here, "j")
        last = (await here.job("j")).last_sequence
        watched = [event async for event in jobs.WatchJob(service.WatchJobRequest(job_id="j", after_sequence=1))]
        assert [event.sequence for event in watched] == list(range(2, last + 1))
        request = service.StreamEventsRequest(job_id="j")
        text = b"".join([part.data async for part in jobs.StreamEvents(request, metadata=[("last-event-id", "1")])])
        blocks = [
            dict(line.split(": ", 1) for line in block.splitlines()) for block in text.decode().split("\n\n") if block
        ]
        assert [int(block["id"]) for block in blocks] == list(range(2, last + 1))
        assert [block["event"] for block in blocks] == [event.type for event in watched]
        assert [json.loads(block["data"])["data"]["sequence"] for block in blocks] == list(range(2, last + 1))
        done = [part async for part in jobs.StreamEvents(request, metadata=[("last-event-id", str(last))])]
        assert done == []


@pytest.mark.parametrize("last", ["", "x", "-1", "1e3", "9" * 30, "²"])
async def test_a_last_event_id_that_is_none_begins_where_the_request_says(tmp_path, last):
    async with world(tmp_path) as here, calling(here) as (jobs, _):
        await finished(here, "j")
        metadata = [("last-event-id", last)] if last.isascii() else []
        parts = [p async for p in jobs.StreamEvents(service.StreamEventsRequest(job_id="j"), metadata=metadata)]
        assert parts[0].data.startswith(b"id: 1\n")


async def test_keep_alives_are_messages_without_a_number_and_comments(tmp_path):
    async with world(tmp_path) as here:
        here.watches = Watches(here.store, recent=here.recent, keep_alive_seconds=0.05)
        async with calling(here) as (jobs, _):
            await jobs.SubmitTraining(body(spec("j")))
            watch = jobs.WatchJob(service.WatchJobRequest(job_id="j", after_sequence=1))
            first = await watch.read()
            assert (first.sequence, first.type) == (0, "")
            stream = jobs.StreamEvents(service.StreamEventsRequest(job_id="j", after_sequence=1))
            assert (await stream.read()).data == b": keep-alive\n\n"
            watch.cancel()
            stream.cancel()
            await eventually(lambda: here.watches._topics == {})


async def test_a_reader_that_does_not_read_is_ended_in_words_and_its_place_is_free(tmp_path):
    class Endless(job_service_pb2_grpc.JobServiceServicer):
        closed = False

        async def StreamEvents(self, request, context):  # noqa: N802
            try:
                while True:
                    yield HttpBody(data=b"x" * 200_000)
            finally:
                self.closed = True

    endless = Endless()
    patience = Patience(write_seconds=0.3)
    async with (
        serving(endless, patience=patience) as server,
        dialled(server.address, **{"grpc.http2.bdp_probe": 0}) as channel,
    ):
        stream = job_service_pb2_grpc.JobServiceStub(channel).StreamEvents(service.StreamEventsRequest(job_id="j"))
        await stream.read()
        await eventually(lambda: endless.closed)

        async def read_on():
            while True:
                await stream.read()

        with pytest.raises(grpc.aio.AioRpcError) as found:
            await read_on()
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "resume from your last number" in found.value.details()


async def test_a_server_that_stops_ends_open_watchers_within_its_grace(tmp_path):
    async with world(tmp_path) as here, AsyncExitStack() as opened:
        await here.submit("j")
        async with serving(job_service(here), patience=Patience(grace_seconds=0.5)) as server:
            channel = await opened.enter_async_context(dialled(server.address))
            stub = job_service_pb2_grpc.JobServiceStub(channel)
            watches = [stub.WatchJob(service.WatchJobRequest(job_id="j")) for _ in range(20)]
            for watch in watches:
                assert (await watch.read()).sequence == 1
            rest = [asyncio.ensure_future(watch.read()) for watch in watches]
            began = time.monotonic()
        assert time.monotonic() - began < 3
        ended = await asyncio.gather(*rest, return_exceptions=True)
        assert {type(each) for each in ended} == {grpc.aio.AioRpcError}
        assert {each.code() for each in ended} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        await eventually(lambda: here.watches._topics == {})


async def test_health_says_not_serving_until_told_and_when_stopping(tmp_path):
    async with serving(job_service_pb2_grpc.JobServiceServicer()) as server, dialled(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serves = health_pb2.HealthCheckResponse.SERVING
        readiness = health_pb2.HealthCheckRequest(service=READINESS)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == serves
        assert (await health.Check(readiness)).status != serves
        await server.set_ready(True)
        assert (await health.Check(readiness)).status == serves


async def test_a_port_that_is_taken_is_told():
    async with serving(job_service_pb2_grpc.JobServiceServicer()) as server:
        with pytest.raises(PortTaken, match=server.address):
            async with serving(job_service_pb2_grpc.JobServiceServicer(), address=server.address):
                raise AssertionError("two servers listen on one port")
