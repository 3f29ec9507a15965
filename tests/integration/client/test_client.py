"""The client against a real gRPC server with written answers."""

import asyncio
import json
from datetime import timedelta

import grpc
import pytest

import trainplane
from tests.support.eventually import eventually
from tests.support.fake_job_service import FakeJobService, event, serving, status, story
from trainplane import errors as e
from trainplane.client import Client, ClientSettings
from trainplane.sdk.retrying import RetryPolicy
from trainplane.sdk.watching import WatchPolicy
from trainplane.v1.artifact_pb2 import Artifact
from trainplane.v1.checkpoint_pb2 import Checkpoint
from trainplane.v1.job_event_pb2 import JobEvent
from trainplane.v1.job_pb2 import Job
from trainplane.v1.job_service_pb2 import WatchJobLogsResponse
from trainplane.v1.log_line_pb2 import LogLine
from trainplane.v1.metric_pb2 import MetricSeries
from trainplane.v1.node_pb2 import Node
from trainplane.v1.preflight_pb2 import Preflight
from trainplane.v1.training_spec_pb2 import TrainingSpec

QUICK = ClientSettings(
    retry=RetryPolicy(budget=timedelta(seconds=3), first=timedelta(milliseconds=5), ceiling=timedelta(milliseconds=20)),
    watch=WatchPolicy(patience=timedelta(seconds=5), silence=timedelta(seconds=5)),
)
KEEP_ALIVE = JobEvent()
CODES = grpc.StatusCode


@pytest.fixture
async def service():
    return FakeJobService()


@pytest.fixture
async def client(service):
    async with serving(service) as address, Client(address, token="", settings=QUICK) as made:
        yield made


async def sequences(events):
    return [each.sequence async for each in events]


# Submitting.


async def test_json_goes_through_the_json_door_unchanged(service, client):
    await client.submit(b'{"job_id": "a",  "x": 1, "x": 2}')
    assert [(call.method, call.request.data) for call in service.calls] == [
        ("SubmitTraining", b'{"job_id": "a",  "x": 1, "x": 2}')
    ]
    assert service.calls[0].request.content_type == "application/json"


async def test_a_mapping_and_a_file_are_sent_as_json(service, client, tmp_path):
    (tmp_path / "r.yaml").write_text("job_id: from-yaml\n")
    assert (await client.submit({"job_id": "from-dict"})).job_id == "from-dict"
    assert (await client.submit(tmp_path / "r.yaml")).job_id == "from-yaml"


async def test_a_repeat_after_a_lost_answer_carries_the_same_idempotency_key(service, client):
    service.refusals["SubmitTraining"] = [status(CODES.UNAVAILABLE, "restarting", reason="UNAVAILABLE")]
    job = await client.submit({"base_model": {"model_name": "m"}})
    keys = [call.metadata["idempotency-key"] for call in service.calls]
    assert keys == [job.job_id] * 2


async def test_a_named_job_carries_no_idempotency_key(service, client):
    await client.submit({"job_id": "mine"})
    assert "idempotency-key" not in service.calls[0].metadata


async def test_a_message_goes_through_the_typed_door_with_an_id_of_our_making(service, client):
    job = await client.submit(TrainingSpec())
    assert job.job_id.startswith("job-")
    assert service.calls[0].method == "CreateJob"


async def test_validate_only_stores_nothing_and_finds_local_faults_first(service, client):
    await client.submit({"job_id": "v"}, validate_only=True)
    assert service.calls[0].request.validate_only
    with pytest.raises(e.InvalidRequest) as caught:
        await client.submit({"jobid": "v"}, validate_only=True)
    assert caught.value.violations[0].field == "jobid"
    assert not service.jobs


@pytest.mark.parametrize(
    "asked", [{"job_id": "v", "customization": {"rank": 8}}, TrainingSpec(job_id="v", customization={"rank": 8})]
)
async def test_validate_sends_the_json_as_it_is_and_answers_what_was_found(service, client, asked):
    service.preflight = Preflight(valid=True, infeasible_reason="needs 1 x A100; no node has A100")
    found = await client.validate(asked)
    assert (found.valid, found.infeasible_reason) == (True, "needs 1 x A100; no node has A100")
    (call,) = service.calls
    assert json.loads(call.request.data) == {"job_id": "v", "customization": {"rank": 8}}
    assert not service.jobs


async def test_what_is_refused_is_not_repeated(service, client):
    service.refusals["SubmitTraining"] = [
        status(CODES.ALREADY_EXISTS, "taken", reason="JOB_EXISTS", metadata={"differing": "customization.rank"})
    ]
    with pytest.raises(e.JobExists) as caught:
        await client.submit({"job_id": "a"})
    assert caught.value.differing == ("customization.rank",)
    assert len(service.calls) == 1


async def test_the_control_planes_wish_for_a_pause_is_heeded(service):
    patient = ClientSettings(retry=RetryPolicy(budget=timedelta(milliseconds=500)))
    service.refusals["GetJob"] = [status(CODES.UNAVAILABLE, "later", reason="UNAVAILABLE", retry_after_seconds=2)]
    async with serving(service) as address, Client(address, token="", settings=patient) as client:
        with pytest.raises(e.Unavailable) as caught:
            await client.get("a")
    assert caught.value.retry_after == timedelta(seconds=2)
    assert len(service.calls) == 1


# Reading.


async def test_a_missing_job_is_job_not_found(client):
    with pytest.raises(e.JobNotFound) as caught:
        await client.get("nobody")
    assert caught.value.reason == "JOB_NOT_FOUND"


async def test_lists_go_over_all_pages(service, client):
    for number in range(5):
        service.add(f"j{number}", Job.RUNNING if number % 2 else Job.QUEUED)
    assert [job.job_id async for job in client.list()] == ["j0", "j1", "j2", "j3", "j4"]
    assert [job.job_id async for job in client.list(states=["RUNNING"])] == ["j1", "j3"]
    with pytest.raises(ValueError, match="NO_SUCH"):
        await anext(client.list(states=["NO_SUCH"]))


async def test_events_come_without_waiting(service, client):
    service.add("j", Job.RUNNING)
    service.events["j"] = story("j")[:3]
    assert await sequences(client.events("j")) == [1, 2, 3]
    assert await sequences(client.events("j", after_sequence=2)) == [3]


async def test_logs_end_where_they_are_unless_followed(service, client):
    job = service.add("j", Job.RUNNING)
    service.lines = [LogLine(attempt=1, text=str(number)) for number in range(3)]
    assert [line.text async for line in client.logs("j")] == ["0", "1", "2"]
    seen = []
    async for line in client.logs("j", follow=True):
        seen.append(line.text)
        if line.text == "2":
            service.lines.append(LogLine(attempt=1, text="last"))
            job.end_time.FromSeconds(1)
    assert seen == ["0", "1", "2", "last"]


async def test_a_log_that_is_followed_goes_on_where_its_stream_broke(service, client):
    service.add("j", Job.RUNNING).end_time.FromSeconds(1)
    service.lines = [LogLine(attempt=1, rank=number % 2, text=str(number)) for number in range(5)]
    first = WatchJobLogsResponse(lines=service.lines[:2], position="2")
    service.streams = [[first, WatchJobLogsResponse(position="2"), CODES.UNAVAILABLE], [CODES.RESOURCE_EXHAUSTED]]
    assert [line.text async for line in client.logs("j", follow=True)] == ["0", "1", "2", "3", "4"]
    assert [call.request.position for call in service.calls if call.method == "WatchJobLogs"] == ["", "2", "2"]


async def test_following_the_log_of_no_job_is_refused_at_once(client):
    with pytest.raises(e.JobNotFound):
        await anext(client.logs("nobody", follow=True))


async def test_metrics_are_points_by_name(service, client):
    service.add("j", Job.RUNNING)
    service.series = [MetricSeries(name="loss", steps=[1, 40], values=[2.5, 1.0])]
    assert await client.metrics("j", max_points=50) == {"loss": ((1, 2.5), (40, 1.0))}
    assert service.calls[-1].request.max_points == 50


async def test_backends_come_with_their_schemas(client):
    (only,) = await client.backends()
    assert (only.name, dict(only.schema)) == ("peft", {"type": "object"})


async def test_artifacts_nodes_and_cancel_answer_what_there_is(service, client):
    service.add("j", Job.RUNNING)
    service.files.append(Artifact(path="adapter_model.safetensors"))
    service.machines.append(Node(name="gpu-01"))
    assert [each.path for each in await client.artifacts("j")] == ["adapter_model.safetensors"]
    assert [each.name for each in await client.nodes()] == ["gpu-01"]
    assert (await client.cancel("j")).state == Job.CANCELLING


async def test_checkpoints_are_listed_and_a_job_that_is_not_there_is_told(service, client):
    service.add("j", Job.RUNNING)
    assert await client.checkpoints("j") == ()
    service.kept.append(Checkpoint(step=40, attempt=2, node="gpu-01"))
    assert [(each.step, each.attempt, each.node) for each in await client.checkpoints("j")] == [(40, 2, "gpu-01")]
    with pytest.raises(e.JobNotFound):
        await client.checkpoints("nobody")


# Watching.


async def test_a_watch_resumes_where_it_broke_and_passes_over_repeats_and_keep_alives(service, client):
    whole = story("j", steps=4)
    service.add("j", Job.RUNNING)
    service.events["j"] = whole
    service.streams = [
        [KEEP_ALIVE, *whole[:3], CODES.UNAVAILABLE],
        [KEEP_ALIVE, whole[1], whole[2], whole[3], CODES.RESOURCE_EXHAUSTED],
        [CODES.INTERNAL],
        [whole[4]],  # ends early, without a word
    ]
    assert await sequences(client.watch("j")) == [1, 2, 3, 4, 5, 6, 7, 8]
    asked = [call.request.after_sequence for call in service.calls if call.method == "WatchJob"]
    assert asked == [0, 3, 4, 4, 5]


async def test_a_watch_starts_after_the_number_it_is_given(service, client):
    service.add_story("j")
    assert await sequences(client.watch("j", after_sequence=5)) == [6, 7]


async def test_a_watch_of_what_is_over_ends(service, client):
    job = service.add_story("j")
    service.streams = [[]]
    assert await sequences(client.watch("j", after_sequence=job.last_sequence)) == []


async def test_a_silent_stream_is_opened_anew(service):
    settings = ClientSettings(
        retry=QUICK.retry, watch=WatchPolicy(patience=timedelta(seconds=5), silence=timedelta(milliseconds=300))
    )
    service.add("j", Job.RUNNING)
    service.events["j"] = story("j")[:2]
    async with serving(service) as address, Client(address, token="", settings=settings) as client:
        watch = client.watch("j")
        assert [(await anext(watch)).sequence for _ in range(2)] == [1, 2]
        later = asyncio.create_task(anext(watch))
        await eventually(lambda: sum(call.method == "WatchJob" for call in service.calls) >= 3)
        service.events["j"].append(event("j", 3, "job.cancelled", Job.CANCELLED))
        assert (await later).sequence == 3
        await watch.aclose()


async def test_a_watch_survives_a_restart_of_the_server_on_its_port(service):
    service.add("j", Job.RUNNING)
    service.events["j"] = story("j")[:2]
    first = serving(service)
    address = await first.__aenter__()
    async with Client(address, token="", settings=QUICK) as client:
        watch = client.watch("j")
        assert [(await anext(watch)).sequence for _ in range(2)] == [1, 2]
        await first.__aexit__(None, None, None)
        service.events["j"] = story("j")
        async with serving(service, port=int(address.rpartition(":")[2])):
            assert await sequences(watch) == [3, 4, 5, 6, 7]


async def test_watching_a_missing_job_is_refused_at_once(client):
    with pytest.raises(e.JobNotFound):
        await anext(client.watch("nobody"))


async def test_a_fault_of_the_control_plane_ends_a_watch_with_its_request_id(service, client):
    service.refusals["WatchJob"] = [status(CODES.INTERNAL, "ours", reason="INTERNAL", metadata={"request_id": "r9"})]
    with pytest.raises(e.ServerError) as caught:
        await anext(client.watch("j"))
    assert caught.value.request_id == "r9"


async def test_wait_returns_the_job_as_it_ended(service, client):
    service.add_story("j", end="job.failed")
    assert (await client.wait("j")).state == Job.FAILED
    job = service.add("k", Job.RUNNING, last_sequence=2)
    service.events["k"] = story("k")[:2]
    waiting = asyncio.create_task(client.wait("k"))
    await eventually(lambda: any(call.method == "WatchJob" for call in service.calls))
    service.events["k"] = story("k")
    job.state = Job.SUCCEEDED
    assert (await waiting).state == Job.SUCCEEDED


# The connection.


async def test_nobody_there_is_unavailable_within_the_budget():
    settings = ClientSettings(retry=RetryPolicy(budget=timedelta(milliseconds=300), first=timedelta(milliseconds=10)))
    async with Client("127.0.0.1:1", token="", settings=settings) as client, asyncio.timeout(10):
        with pytest.raises(e.Unavailable, match=r"127\.0\.0\.1:1"):
            await client.get("j")
        with pytest.raises(e.Unavailable):
            await anext(client.watch("j"))


async def test_the_token_travels_as_a_bearer(service):
    service.add("j")
    async with serving(service) as address, Client(address, token="t0ken", settings=QUICK) as client:
        await client.get("j")
    assert service.calls[0].metadata["authorization"] == "Bearer t0ken"


def test_a_token_is_not_sent_in_clear_to_another_machine_unless_told():
    with pytest.raises(ValueError, match="https://example\\.com:50051"):
        Client("example.com:50051", token="t")
    Client("http://example.com:50051", token="t")
    Client("https://example.com:50051", token="t")
    Client("example.com:50051", token="")


@pytest.mark.parametrize("address", ["nowhere", "host:", "host:0", "host:99999", "ftp://host:1", "a b:1", ":1"])
def test_what_is_no_address_is_said_so(address):
    with pytest.raises(ValueError, match="host:port"):
        Client(address, token="")


async def test_the_environment_names_address_and_token(service, monkeypatch):
    service.add("j")
    async with serving(service) as address:
        monkeypatch.setenv("TRAINPLANE_ADDRESS", address)
        monkeypatch.setenv("TRAINPLANE_TOKEN", "from-env")
        async with trainplane.Client() as client:
            await client.get("j")
    assert service.calls[0].metadata["authorization"] == "Bearer from-env"


# Without await.


async def test_the_blocking_face_does_all_of_it(service):
    service.add_story("j")
    async with serving(service) as address:
        seen = await asyncio.to_thread(_by_blocking, address)
    assert seen == {"get": "j", "watch": [1, 2, 3, 4, 5, 6, 7], "first": 1, "list": ["j"], "error": "JOB_NOT_FOUND"}


def _by_blocking(address):
    with trainplane.BlockingClient(address, token="", settings=QUICK) as client:
        seen = {
            "get": client.get("j").job_id,
            "watch": [event.sequence for event in client.watch("j")],
            "first": next(iter(client.watch("j"))).sequence,
            "list": [job.job_id for job in client.list()],
        }
        with pytest.raises(e.JobNotFound) as caught:
            client.get("nobody")
        seen["error"] = caught.value.reason
        assert json.dumps(seen)
    client.close()
    return seen


def test_every_call_of_the_client_has_its_blocking_face():
    asynchronous = {name for name in vars(Client) if not name.startswith("_")}
    blocking = {name for name in vars(trainplane.BlockingClient) if not name.startswith("_")}
    assert asynchronous <= blocking
