"""Messages to the domain and back: nothing lost, nothing ignored; and the JSON that people see, as a golden file."""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import spec as specs
from controlplane.domain.attempt import AttemptState
from controlplane.domain.errors import InvalidArgument, InvalidSpec
from controlplane.domain.event import Event, EventType, stored
from controlplane.domain.job import JobRecord, Progress, State
from controlplane.domain.metrics import Curve
from controlplane.domain.placement import capacities
from controlplane.domain.spec import Rules
from controlplane.engine.jobs import JobView
from controlplane.engine.log_reading import Line
from controlplane.engine.nodes import NodeView
from controlplane.rpc import convert
from controlplane.rpc.backends import BackendService
from tests.support import builders
from tests.support.bad_requests import CANARIES
from tests.support.golden import as_committed
from trainplane import backends
from trainplane.v1 import job_service_pb2
from trainplane.v1.training_spec_pb2 import TrainingSpec

GOLDEN = Path(__file__).parents[2] / "golden" / "json"
SEED = Path(__file__).parents[3] / "examples" / "seed-train-request.json"
T = builders.EPOCH_US

# round trips

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBER = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SCALARS = {
    Kind.TYPE_STRING: TEXT,
    Kind.TYPE_BOOL: st.booleans(),
    Kind.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    Kind.TYPE_DOUBLE: st.floats(allow_nan=False),
}


def value(field):
    kind = field.message_type
    if kind is None:
        one = SCALARS[field.type]
    elif kind is Struct.DESCRIPTOR:
        one = st.dictionaries(TEXT, JSON, max_size=3)
    elif kind.GetOptions().map_entry:
        return st.dictionaries(TEXT, TEXT, min_size=1, max_size=3)
    else:
        one = message(kind)
    return st.lists(one, min_size=1, max_size=3) if field.is_repeated else one


def message(descriptor):
    return st.fixed_dictionaries({}, optional={field.name: value(field) for field in descriptor.fields})


@settings(max_examples=300, deadline=None)
@given(message(TrainingSpec.DESCRIPTOR))
def test_a_spec_survives_the_way_into_a_message_and_back_over_the_wire(fields):
    sent = TrainingSpec(**fields).SerializeToString()
    assert convert.spec_fields(TrainingSpec.FromString(sent)) == fields


def test_every_field_of_the_table_is_reached_by_that():
    tops = {field.name for field in TrainingSpec.DESCRIPTOR.fields}
    assert tops == {field.name for field in specs.FIELDS}


@given(st.data())
def test_whole_numbers_of_a_struct_are_told_as_whole_and_others_as_they_are(data):
    number = data.draw(NUMBER)
    made = TrainingSpec(backend_options={"n": number})
    found = convert.spec_fields(made)["backend_options"]["n"]
    assert found == number
    if isinstance(number, int):
        assert isinstance(found, int)


@pytest.mark.parametrize(
    ("number", "expected"), [(1.0, 1), (-0.0, 0), (1.5, 1.5), (2.0**53, 2.0**53), (1e300, 1e300), (3e15, 3 * 10**15)]
)
def test_numbers_at_the_edge_of_what_is_whole(number, expected):
    found = convert.spec_fields(TrainingSpec(backend_options={"n": number}))["backend_options"]["n"]
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "made",
    [
        lambda n: TrainingSpec(tuning_parameters={"learning_rate": n}),
        lambda n: TrainingSpec(resources={"memory_gb": n}),
        lambda n: TrainingSpec(backend_options={"n": n}),
        lambda n: TrainingSpec(customization={"peft": {"config": {"a": [{"b": n}]}}}),
        lambda n: TrainingSpec(datasets=[{"weight": n}]),
    ],
)
def test_a_number_that_is_not_finite_is_a_violation_at_the_typed_door(number, made):
    with pytest.raises(InvalidSpec):
        specs.check(convert.spec_fields(made(number)), rules=Rules())


UNKNOWN = b"\xba\x3e\x03new"  # field 999


@pytest.mark.parametrize(
    ("within", "named"),
    [
        (lambda m: m, "TrainingSpec"),
        (lambda m: m.base_model, "BaseModel"),
        (lambda m: m.customization.peft, "Peft"),
        (lambda m: m.datasets.add(), "Dataset"),
        (lambda m: m.artifacts.auth, "StorageAuth"),
    ],
)
def test_a_field_that_this_server_does_not_know_is_refused_wherever_it_stands(within, named):
    made = TrainingSpec()
    within(made).MergeFromString(UNKNOWN)
    with pytest.raises(InvalidArgument, match=named) as refused:
        convert.spec_fields(TrainingSpec.FromString(made.SerializeToString()))
    assert refused.value.reason == "UNKNOWN_FIELD"


def test_a_nested_field_with_an_unknown_one_beside_known_ones_is_refused():
    made = TrainingSpec(base_model={"model_name": "m"})
    made.base_model.MergeFromString(UNKNOWN)
    with pytest.raises(InvalidArgument):
        convert.spec_fields(made)


def test_every_effective_spec_of_the_examples_is_a_message():
    checked = specs.check(json.loads(SEED.read_bytes()), rules=Rules())
    for fields in (checked.sent, checked.effective):
        assert convert.spec_fields(TrainingSpec(**fields)) == fields


# times and events


@pytest.mark.parametrize("time_us", [1, 999_999, 1_000_000, T, 253_402_300_799_999_999])
def test_a_time_keeps_its_microseconds(time_us):
    found = convert.timestamp(time_us)
    assert found.ToMicroseconds() == time_us


def test_no_time_is_unset():
    assert convert.timestamp(0) is None


def an_event(kind, **fields):
    usual = {
        "uid": "01K0", "project": "default", "job_id": "j", "sequence": 3, "type": kind, "attempt": 1, "time_us": T + 5,
        "state": State.RUNNING, "phase": "TRAINING", "reason": "", "message": "", "progress": None,
    }  # fmt: skip
    return stored(Event(**(usual | fields)))


PROGRESS = Progress(
    step=40, total_steps=300, epoch=0.4, loss=1.92, learning_rate=2e-4, grad_norm=0.8, tokens_per_second=3100.0,
    gpu_memory_bytes=8.5e10, estimated_end_time_us=T + 60_000_000,
)  # fmt: skip
EVALUATED = replace(PROGRESS, eval_loss_before=2.6, eval_loss=0.0)


@pytest.mark.parametrize("kind", list(EventType))
@pytest.mark.parametrize("progress", [None, PROGRESS, replace(PROGRESS, estimated_end_time_us=0), EVALUATED])
def test_an_event_s_message_says_what_its_json_says(kind, progress):
    event = an_event(kind, progress=progress, message='a "quoted" ü\n\x07', reason="R")
    shown = printed(convert.event_message(event))
    data = json.loads(event.json)["data"]
    for told in (shown, data):
        told.pop("time")
        if "progress" in told:
            told["progress"].pop("estimated_end_time", None)
    assert shown == {**shown, **data}
    assert ("progress" in shown) == (progress is not None)


# goldens


def printed(made):
    """As Envoy's transcoder prints it."""
    text = json_format.MessageToJson(
        made, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
    return json.loads(text)


def golden(name, made):
    as_committed(GOLDEN / name, json.dumps(printed(made), indent=1, ensure_ascii=False) + "\n")


def view(job, *, raw=None, **fields):
    checked = specs.check(raw or json.loads(SEED.read_bytes()), rules=Rules())
    usual = {
        "priority": checked.priority, "create_time_us": T, "sent": specs.canonical(checked.sent), "secret_macs": "{}",
        "labels": checked.labels, "output_uri": checked.effective["artifacts"]["output_uri"], "pending_reason": "",
        "base_model_commit": "", "retry_of": "",
        "warnings": json.dumps([{"field": w.field, "reason": w.reason, "description": w.description} for w in checked.warnings]),
    }  # fmt: skip
    record = JobRecord(job=job, **(usual | fields))
    return JobView(record, checked.sent, checked.effective, 1 if job.state is State.QUEUED else 0)


def test_the_json_of_a_job_that_waits_is_as_committed():
    job = builders.job(uid="01K0", job_id="unique-train-id")
    made = convert.job_message(
        view(job, pending_reason="needs 4 x A100; no node has A100"), signing_secret="whsec_AAAA"
    )
    golden("job-queued.json", made)
    assert not [canary for canary in (*CANARIES, "hf_xxx", "mytoken") if canary in str(printed(made))]


def test_the_json_of_a_job_that_runs_is_as_committed():
    job = builders.job(
        uid="01K0", job_id="unique-train-id", state=State.RUNNING, phase="TRAINING", attempt=2, last_sequence=17,
        progress=PROGRESS, start_time_us=T + 1_000_000, losses=1,
    )  # fmt: skip
    first = builders.attempt(
        job, 1, state=AttemptState.LOST, devices=(0, 1), start_time_us=T + 5, end_time_us=T + 9, reason="NODE_LOST"
    )
    second = builders.attempt(
        job, 2, node="gpu-02", devices=(2, 3), state=AttemptState.CLAIMED, start_time_us=T + 1_000_000
    )
    golden("job-running.json", convert.job_message(view(job, attempts=(first, second))))


def test_the_json_of_a_job_that_failed_is_as_committed():
    job = builders.job(
        uid="01K0", job_id="unique-train-id", state=State.FAILED, reason="NOT_YET_SUPPORTED", message="later",
        end_time_us=T + 2_000_000, last_sequence=2,
    )  # fmt: skip
    golden("job-failed.json", convert.job_message(view(job)))


def test_the_json_of_events_is_as_committed():
    golden("event-progress.json", convert.event_message(an_event(EventType.PROGRESS, progress=PROGRESS)))
    golden(
        "event-failed.json",
        convert.event_message(an_event(EventType.FAILED, state=State.FAILED, reason="R", message="m")),
    )


def test_the_json_of_success_says_what_it_came_to():
    golden(
        "event-succeeded.json",
        convert.event_message(an_event(EventType.SUCCEEDED, state=State.SUCCEEDED, progress=EVALUATED)),
    )


def test_the_json_of_a_node_is_as_committed():
    node = builders.node(gpus=2)
    free = capacities([node], [])[0]
    golden("node.json", convert.node_message(NodeView(node, {1: "unique-train-id"}, free.cpus, free.memory_bytes)))


def test_the_json_of_metrics_and_logs_is_as_committed():
    curve = Curve(array("q", [1, 40, 300]), array("d", [2.5, 1.92, 0.1]))
    made = job_service_pb2.ListMetricsResponse(series=[convert.series_message("loss", curve)])
    golden("metrics.json", made)
    line = convert.line_message(Line(2, 3, "step 40: loss 1.92", 1234))
    golden("logs.json", job_service_pb2.ListJobLogsResponse(lines=[line], next_page_token="2.0-77.3-1234"))


def test_the_json_of_the_backends_is_as_committed():
    listed = BackendService(Rules(dev_mode=True)).listed
    for shown in printed(listed)["backends"]:
        engine = backends.find(shown["name"])
        assert shown["schema"] == specs.backend_schema(engine)
    # What the schema says has its own golden file, and the fields of a Struct have no order.
    for each in listed.backends:
        each.schema.Clear()
        each.schema.update({"type": "object"})
    golden("backends.json", listed)


def test_outside_dev_mode_the_fake_trainer_is_not_listed():
    assert [each.name for each in BackendService(Rules()).listed.backends] == ["peft"]


def test_a_node_that_is_overcommitted_shows_nothing_free_rather_than_less():
    shown = convert.node_message(NodeView(builders.node(), {}, -3, -5))
    assert (shown.cpus_free, shown.memory_gb_free) == (0, 0)
