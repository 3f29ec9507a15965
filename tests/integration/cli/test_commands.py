"""The command line as a process, against a real gRPC server with written answers."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import sys

import grpc
import pytest

from tests.support.eventually import eventually
from tests.support.fake_job_service import FakeJobService, serving, status, story
from trainplane.v1.checkpoint_pb2 import Checkpoint
from trainplane.v1.job_pb2 import Job
from trainplane.v1.log_line_pb2 import LogLine
from trainplane.v1.metric_pb2 import MetricSeries
from trainplane.v1.node_pb2 import Node
from trainplane.v1.preflight_pb2 import Check, Preflight
from trainplane.wire import credentials

CODES = grpc.StatusCode


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """`trainplane` with a server's address in its environment; expected errors never show a traceback."""

    def __init__(self, address, folder):
        self.environment = {**os.environ, "TRAINPLANE_ADDRESS": address, "TRAINPLANE_TOKEN": ""}
        self.folder = folder

    async def start(self, *arguments, stdin=None):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "trainplane.cli", *arguments),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
        )

    async def __call__(self, *arguments, stdin=None):
        process = await self.start(*arguments, stdin=stdin)
        return await self.ended(process, stdin=stdin)

    async def ended(self, process, *, stdin=None):
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        assert b"Traceback" not in err, err.decode()
        return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def service():
    return FakeJobService()


@pytest.fixture
async def cli(service, tmp_path):
    async with serving(service) as address:
        yield Cli(address, tmp_path)


@pytest.fixture
def request_file(tmp_path):
    path = tmp_path / "request.json"
    path.write_text('{"job_id": "j", "datasets": [{"source": "file://./d.jsonl"}]}')
    return path


# Submitting.


async def test_submit_says_the_job_and_how_to_watch_it(service, cli, request_file):
    service.add("j", Job.STARTING)
    result = await cli("submit", str(request_file))
    assert result.code == 0
    assert "j accepted" in result.out
    assert "trainplane watch j" in result.out
    sent = json.loads(service.calls[0].request.data)
    assert sent["datasets"][0]["source"] == f"{request_file.parent.resolve().as_uri()}/d.jsonl"


async def test_submit_does_not_call_a_job_accepted_that_has_ended(service, cli, request_file):
    service.add("j", Job.CANCELLED).end_time.GetCurrentTime()
    result = await cli("submit", "request.json")
    assert "accepted" not in result.out
    assert "j has ended before" in result.out
    assert "--new-id" in result.out


async def test_submit_prints_why_a_job_waits_and_what_helps(service, cli, request_file):
    service.add("j", pending_reason="needs 4 x A100; no node has A100", queue_position=2)
    result = await cli("submit", "request.json")
    assert "waits: needs 4 x A100; no node has A100 (2. in the queue)" in result.out
    assert "what helps: no node is ready" in result.out


async def test_submit_prints_each_warning(service, cli, request_file):
    job = service.add_story("j")
    job.warnings.add(field="customization.qlora", reason="NO_EFFECT", description="belongs to another method")
    result = await cli("submit", "request.json")
    assert "warning: customization.qlora: belongs to another method (NO_EFFECT)" in result.err


async def test_submit_takes_another_id_or_a_fresh_one(service, cli, request_file):
    assert (await cli("submit", "request.json", "--job-id", "mine", "-o", "json")).code == 0
    assert (await cli("submit", "request.json", "--new-id", "-o", "json")).code == 0
    first, second = service.jobs
    assert first == "mine"
    assert second.startswith("job-")
    both = await cli("submit", "request.json", "--new-id", "--job-id", "x")
    assert both.code == 2


async def test_submit_reads_stdin(service, cli):
    result = await cli("submit", "-", "-o", "json", stdin=b"job_id: from-stdin\n")
    assert json.loads(result.out)["job_id"] == "from-stdin"


async def test_submit_and_watch_follows_to_success(service, cli, request_file):
    service.add_story("j")
    result = await cli("submit", "request.json", "--watch")
    assert result.code == 0
    assert "step 3/3  loss 1.000  400 tokens/s" in result.out
    assert "j SUCCEEDED after 1m15s" in result.out
    assert "output: file:///out/" in result.out
    assert "\x1b" not in result.out


async def test_submit_and_watch_of_a_job_that_fails_exits_1_and_says_why(service, cli, request_file):
    service.add_story("j", end="job.failed")
    result = await cli("submit", "request.json", "--watch")
    assert result.code == 1
    assert "DATASET_INVALID: datasets[0].source: row 7 is no JSON" in result.out


async def test_submit_and_watch_as_json_is_the_job_and_then_its_events(service, cli, request_file):
    service.add_story("j")
    result = await cli("submit", "request.json", "--watch", "--output", "json")
    assert result.lines[0]["uid"] == "uid-j"
    assert [line["sequence"] for line in result.lines[1:]] == [1, 2, 3, 4, 5, 6, 7]


async def test_a_watched_job_that_waits_says_why_at_once(service, cli, request_file):
    job = service.add("j", pending_reason="needs 1 x GPU; the node has 0 free", last_sequence=1)
    service.events["j"] = story("j")[:1]
    process = await cli.start("submit", "request.json", "--watch")
    while b"what helps" not in (line := await process.stdout.readline()):
        assert line
    job.state = Job.SUCCEEDED
    job.end_time.FromSeconds(2)
    service.events["j"] = story("j")
    assert (await cli.ended(process)).code == 0


@pytest.mark.parametrize("command", [("submit", "request.json", "--watch"), ("watch", "j")])
async def test_ctrl_c_detaches_and_says_how_to_cancel(service, cli, request_file, command):
    service.add("j", Job.RUNNING)
    service.events["j"] = story("j")[:3]
    process = await cli.start(*command)
    while b"TRAINING" not in (line := await process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    result = await cli.ended(process)
    assert result.code == 130
    assert "trainplane cancel j" in result.err
    assert not any(call.method == "CancelJob" for call in service.calls)


# Refusals.


async def test_every_violation_is_printed_with_its_field_and_reason(service, cli, request_file):
    service.refusals["SubmitTraining"] = [
        status(
            CODES.INVALID_ARGUMENT,
            "2 fields are invalid",
            reason="INVALID_SPEC",
            violations=[
                ("customization.rank", "OUT_OF_RANGE", "must be from 1 to 1024, got 0"),
                ("base_model.model_name", "REQUIRED", "is required"),
            ],
        )
    ]
    result = await cli("submit", "request.json")
    assert result.code == 3
    assert "customization.rank: must be from 1 to 1024, got 0 (OUT_OF_RANGE)" in result.err
    assert "base_model.model_name: is required (REQUIRED)" in result.err


async def test_errors_as_json_are_one_object_on_stderr(service, cli, request_file):
    service.refusals["SubmitTraining"] = [
        status(CODES.ALREADY_EXISTS, "taken", reason="JOB_EXISTS", metadata={"differing": "a.b", "request_id": "r1"})
    ]
    result = await cli("submit", "request.json", "-o", "json")
    assert result.code == 3
    assert json.loads(result.err)["error"] == {
        "kind": "JobExists",
        "reason": "JOB_EXISTS",
        "message": "taken",
        "request_id": "r1",
        "differing": ["a.b"],
    }
    assert result.out == ""


async def test_a_missing_job_is_refused_and_a_missing_file_is_usage(cli):
    assert (await cli("job", "nobody")).code == 3
    missing = await cli("submit", "nothing.json")
    assert missing.code == 2
    assert "nothing.json" in missing.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("jobs", "--limit", "x"),
        ("jobs", "--state", "NO_SUCH"),
        ("job",),
        ("watch", "j", "--after", "-1"),
    ],
)
async def test_wrong_usage_exits_2(cli, arguments):
    assert (await cli(*arguments)).code == 2


async def test_nobody_there_exits_4_and_says_what_helps(cli):
    cli.environment["TRAINPLANE_ADDRESS"] = "127.0.0.1:1"
    result = await cli("jobs")
    assert result.code == 4
    assert "trainplane up" in result.err


async def test_a_wrong_address_is_usage(cli):
    cli.environment["TRAINPLANE_ADDRESS"] = "nonsense"
    result = await cli("jobs")
    assert result.code == 2
    assert "host:port" in result.err


async def test_a_fault_of_the_control_plane_names_the_request(service, cli):
    service.refusals["GetJob"] = [status(CODES.INTERNAL, "ours", reason="INTERNAL", metadata={"request_id": "r7"})]
    result = await cli("job", "j")
    assert result.code == 3
    assert "r7" in result.err


# Reading.


async def test_validate_shows_what_a_submit_would_come_to_and_ends_by_it(service, cli, request_file):
    service.preflight = Preflight(valid=True, feasible=True)
    service.preflight.estimate.trainable_parameters = 4_194_304
    service.preflight.estimate.gpu_memory_bytes = 14.2 * 2**30
    service.preflight.estimate.unknown["seconds"] = "no job like it has finished yet"
    service.preflight.checks.add(name="model", status=Check.PASSED, node="gpu-01")
    result = await cli("validate", "request.json")
    lines = [line.split(maxsplit=1) for line in result.out.splitlines() if line]
    assert (result.code, lines[-1]) == (0, ["valid"])
    assert ["model", "PASSED  gpu-01"] in lines
    assert ["trained", "4.19M"] in lines
    assert "about 14.2 GiB" in result.out
    assert "unknown: no job like it has finished yet" in result.out
    assert not service.jobs
    told = json.loads((await cli("validate", "request.json", "-o", "json")).out)
    assert told["estimate"]["trainable_parameters"] == 4_194_304
    assert "steps" not in told["estimate"]

    service.preflight.checks[0].status = Check.FAILED
    service.preflight.checks[0].reason = "MODEL_NOT_FOUND"
    service.preflight.checks[0].message = "base_model.model_name: there is none"
    failing = await cli("validate", "request.json")
    assert failing.code == 1
    assert "MODEL_NOT_FOUND: base_model.model_name: there is none" in failing.out
    assert failing.out.splitlines()[-1] == "valid, but it would fail: model"

    service.preflight = Preflight(valid=True, infeasible_reason="needs 4 x A100; no node has A100")
    nowhere = await cli("validate", "request.json")
    assert (nowhere.code, nowhere.out.splitlines()[-1]) == (
        1,
        "valid, but no known node can run it: needs 4 x A100; no node has A100",
    )

    service.preflight = Preflight()
    service.preflight.violations.add(field="customization.rank", reason="OUT_OF_RANGE", description="must be from 1")
    bad = await cli("validate", "-", stdin=b'{"customization": {"rank": 0}}')
    assert bad.code == 3
    assert "customization.rank: must be from 1 (OUT_OF_RANGE)" in bad.out


async def test_jobs_lists_newest_first_as_one_line_each(service, cli):
    service.add("a", Job.RUNNING, phase="TRAINING")
    service.add("b", Job.QUEUED, pending_reason="needs " + "x" * 300)
    service.add("c", Job.FAILED, reason="DISK_FULL", message="full")
    text = await cli("jobs")
    assert len(text.out.splitlines()) == 4
    assert "needs " + "x" * 300 in text.out
    assert [job["job_id"] for job in json.loads((await cli("jobs", "-o", "json")).out)] == ["a", "b", "c"]
    assert [job["job_id"] for job in json.loads((await cli("jobs", "--limit", "1", "-o", "json")).out)] == ["a"]
    assert [job["job_id"] for job in json.loads((await cli("jobs", "--state", "failed", "-o", "json")).out)] == ["c"]


async def test_job_shows_one_job(service, cli):
    service.add("a", Job.FAILED, reason="DISK_FULL", message="no room", output_uri="s3://b/")
    text = await cli("job", "a")
    assert "DISK_FULL: no room" in text.out
    assert json.loads((await cli("job", "a", "-o", "json")).out)["state"] == "FAILED"


async def test_events_and_logs_print_lines_and_json_lines(service, cli):
    service.add_story("j")
    silent = await cli("logs", "j")
    assert (silent.out, silent.err) == ("", "no log lines\n")
    service.lines = [
        LogLine(attempt=1, text="one"),
        LogLine(attempt=1, text="two\x1b[31m"),
        LogLine(attempt=2, text="x", rank=3),
    ]
    assert len((await cli("events", "j")).out.splitlines()) == 7
    assert [each["sequence"] for each in (await cli("events", "j", "--after", "5", "-o", "json")).lines] == [6, 7]
    logs = await cli("logs", "j", "-f")
    assert logs.out == "one\ntwo\u241b[31m\n[rank 3] x\n"
    assert "attempt 2" in logs.err
    assert [each["text"] for each in (await cli("logs", "j", "-o", "json")).lines] == ["one", "two\x1b[31m", "x"]


async def test_metrics_are_told_in_short_and_as_points(service, cli):
    service.add("j", Job.RUNNING)
    assert (await cli("metrics", "j")).out == "no metrics\n"
    service.series = [MetricSeries(name="loss", steps=[1, 2, 300], values=[2.5, 9.0, 0.125])]
    told = (await cli("metrics", "j")).out
    assert told.splitlines()[1].split() == ["loss", "1-300", "2.5", "0.125", "0.125", "9"]
    shown = json.loads((await cli("metrics", "j", "--max-points", "10", "-o", "json")).out)
    assert shown == {"series": [{"name": "loss", "steps": [1, 2, 300], "values": [2.5, 9.0, 0.125]}]}
    assert service.calls[-1].request.max_points == 10


async def test_checkpoints_are_told_by_step_attempt_and_node(service, cli):
    service.add("j", Job.RUNNING)
    assert (await cli("checkpoints", "j")).out == "no checkpoints\n"
    service.kept = [Checkpoint(step=40, attempt=2, node="gpu-01", size_bytes=3 * 2**20, manifest_digest="ab")]
    told = (await cli("checkpoints", "j")).out
    assert told.splitlines()[1].split() == ["40", "2", "gpu-01", "3.0", "MiB"]
    [shown] = json.loads((await cli("checkpoints", "j", "-o", "json")).out)
    assert (shown["step"], shown["manifest_digest"], shown["size_bytes"]) == (40, "ab", 3 * 2**20)
    assert (await cli("checkpoints", "nobody")).code == 3


async def test_watch_of_a_cancelled_job_exits_1(service, cli):
    service.add_story("j", end="job.cancelled")
    result = await cli("watch", "j", "-o", "json")
    assert result.code == 1
    assert result.lines[-1]["type"] == "job.cancelled"


async def test_cancel_says_how_far_it_is(service, cli):
    service.add("waiting", Job.QUEUED)
    service.add("running", Job.RUNNING)
    assert (await cli("cancel", "waiting")).out == "waiting is CANCELLED\n"
    assert "running is CANCELLING" in (await cli("cancel", "running")).out
    service.refusals["CancelJob"] = [status(CODES.FAILED_PRECONDITION, "is SUCCEEDED", reason="MOVE_NOT_ALLOWED")]
    assert (await cli("cancel", "running")).code == 3


async def test_nodes_lists_what_is_free(service, cli):
    node = Node(name="gpu-01", state=Node.READY, runner="local", simulated=True, cpus=8, cpus_free=6, memory_gb=32)
    node.gpus.add(type="A100", job_id="x")
    node.gpus.add(type="A100")
    service.machines.append(node)
    text = (await cli("nodes")).out
    assert "1 of 2 free: A100" in text
    assert "local (simulated)" in text
    assert json.loads((await cli("nodes", "-o", "json")).out)[0]["name"] == "gpu-01"


# Enrolling.


async def test_enroll_mints_credentials_once_and_prints_the_command(cli, tmp_path):
    nothing = await cli("nodes", "enroll", "n2", "--data-dir", str(tmp_path / "none"))
    assert nothing.code == 2
    assert "trainplane up" in nothing.err
    data_dir = tmp_path / "data"
    credentials.load_or_create(data_dir / "keys" / "nats.json")
    (data_dir / "up.json").write_text('{"nats": "nats://127.0.0.1:9999"}')
    result = await cli("nodes", "enroll", "n2", "--data-dir", str(data_dir), "--out", "n2.creds")
    assert result.code == 0
    path = tmp_path / "n2.creds"
    assert f"trainplane-agent --nats nats://127.0.0.1:9999 --node n2 --credentials {path}" in result.out
    assert path.stat().st_mode & 0o777 == 0o600
    assert "BEGIN NATS USER JWT" in path.read_text()
    assert "SEED" not in result.out + result.err
    assert (await cli("nodes", "enroll", "n2", "--data-dir", str(data_dir), "--out", "n2.creds")).code == 2
    assert (await cli("nodes", "enroll", "no.dots", "--data-dir", str(data_dir))).code == 2


# Manners.


async def test_help_loads_nothing_heavy(cli):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "trainplane.cli", "--help"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, imports = await process.communicate()
    assert b"submit" in out
    loaded = {line.rpartition(b"|")[2].strip().decode() for line in imports.splitlines()}
    assert not loaded & {"grpc", "google.protobuf", "rich", "yaml", "aiohttp", "psutil", "torch", "nats"}


async def test_ctrl_c_before_the_command_has_begun_ends_quietly(cli):
    # `-m` looks here first: what the command line is made with takes its time to load.
    (cli.folder / "typer.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    result = await cli("jobs")
    assert (result.code, result.out, result.err) == (130, "", "")


async def test_a_closed_pipe_ends_quietly(service, cli):
    service.add("j", Job.RUNNING)
    service.lines = [LogLine(attempt=1, text="x" * 1000) for _ in range(200)]
    process = await cli.start("logs", "j", "-f")
    await process.stdout.readline()
    process.stdout._transport.close()
    await eventually(lambda: process.returncode is not None)
    assert b"Traceback" not in await process.stderr.read()


async def test_on_a_terminal_there_is_a_bar_and_it_is_gone_at_the_end(service, cli, request_file):
    service.add_story("j", steps=3)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "trainplane.cli", "submit", "request.json", "--watch"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**cli.environment, "TERM": "xterm", "COLUMNS": "150"},
        cwd=cli.folder,
    )
    os.close(theirs)
    shown = (await asyncio.to_thread(_read_all, ours)).decode()
    assert await process.wait() == 0
    assert "━" in shown
    assert "step 3/3  loss 1.000" in shown
    assert "\x1b[?25h" in shown, "the cursor is shown again"
    assert shown.rstrip().endswith("output: file:///out/")


def _read_all(descriptor):
    read = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while chunk := os.read(descriptor, 65536):
            read += chunk
    os.close(descriptor)
    return read
