"""Training engines: chosen by address, listed with their schemas, and one of a third party, really installed."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from tests.support.distribution import installed
from tests.support.eventually import eventually
from tests.support.stack import SEED, Stack, mock_spec

ENGINE = '''
"""An engine that writes what it is told to say."""

from pathlib import Path


class Echo:
    name = "echo"
    description = "Writes what it is told to say."

    def schema(self):
        return {"type": "object", "additionalProperties": False, "properties": {"say": {"type": "string"}}}

    def validate(self, effective_spec):
        said = effective_spec.get("backend_options", {}).get("say")
        if not isinstance(said, str):
            return [("backend_options.say", "REQUIRED", "must be a text: what to write")]
        return []

    def command(self, python, attempt_dir):
        return [python, str(Path(__file__).with_name("echo_trainer.py")), attempt_dir]
'''
TRAINER = """
import json, os, sys, time

directory = sys.argv[1]
NOW = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000Z"


def report(kind, **fields):
    with open(directory + "/reports.jsonl", "a") as reports:
        reports.write(json.dumps({"kind": kind, "time": NOW, **fields}) + "\\\\n")


report("started", pid=os.getpid())
spec = json.load(open(directory + "/assignment.json"))["spec"]
print("saying", spec["backend_options"]["say"])
with open(directory + "/logs/rank-1.log", "w") as second:
    second.write("rank one has nothing to say\\\\n")
report("metrics", series={"step": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "grad_norm": [None, 0.5, 0.25]})
os.makedirs(directory + "/output", exist_ok=True)
with open(directory + "/output/said.txt", "w") as output:
    output.write(spec["backend_options"]["say"])
report("finished")
""".replace("\\\\n", "\\n")
ENTRY_POINTS = """[trainplane.backends]
echo = echo_engine:Echo
lost = no_such_module_of_anybody:X
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack whose control plane and agents find the third party's distribution."""
    directory = tmp_path_factory.mktemp("backends")
    modules = {"echo_engine": ENGINE, "echo_trainer": TRAINER}
    site = installed(directory, "echo_engine", modules=modules, entry_points=ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        found = Stack(directory / "stack")
        try:
            found.start()
            found.join("node-1", "--cpus", "8", "--memory-gb", "16")
            yield found
        finally:
            found.stop()


def echo(job_id, output, **options):
    made = mock_spec(job_id, output)
    del made["backend"]
    return json.dumps(made | {"backend_options": options}).encode()


def violations(answer):
    return [
        (v["field"], v["reason"])
        for detail in answer["details"]
        if detail["@type"].endswith("BadRequest")
        for v in detail["field_violations"]
    ]


async def test_a_third_party_s_engine_trains_a_job_that_was_sent_to_its_address(stack, tmp_path):
    status, job = stack.http("POST", "/backends/echo/train", echo("echo-1", tmp_path / "out", say="hello"))
    assert status == 200, job
    assert job["spec"]["backend"] == job["effective_spec"]["backend"] == "echo"
    await eventually(lambda: stack.http("GET", "/train/echo-1")[1]["state"] == "SUCCEEDED")
    assert (tmp_path / "out" / "said.txt").read_text() == "hello"
    lines = stack.http("GET", "/train/echo-1/logs")[1]["lines"]
    assert [(line["rank"], line["text"]) for line in lines] == [(0, "saying hello"), (1, "rank one has nothing to say")]
    assert stack.http("GET", "/train/echo-1/metrics")[1]["series"] == [
        {"name": "grad_norm", "steps": [2, 3], "values": [0.5, 0.25]},
        {"name": "loss", "steps": [1, 2, 3], "values": [3, 2, 1.5]},
    ]


def test_its_own_judgement_is_heard_with_that_of_the_platform(stack, tmp_path):
    body = json.loads(echo("echo-bad", tmp_path / "out", word="hello"))
    body["customization"]["rank"] = 0
    status, answer = stack.http("POST", "/backends/echo/train", json.dumps(body).encode())
    assert status == 400
    assert violations(answer) == [("customization.rank", "OUT_OF_RANGE"), ("backend_options.say", "REQUIRED")]


def test_a_broken_one_is_named_in_both_logs_and_skipped(stack):
    for log in ("controlplane.log", "node-1.log"):
        (line,) = [line for line in (stack.directory / log).read_text().splitlines() if "backend skipped" in line]
        assert "lost = no_such_module_of_anybody:X" in line
        assert "echo_engine" in line
        assert "ModuleNotFoundError" in line


def test_all_are_listed_with_what_they_accept(stack):
    found = {each["name"]: each for each in stack.http("GET", "/backends")[1]["backends"]}
    assert sorted(found) == ["echo", "mock", "peft"]
    assert found["echo"]["description"] == "Writes what it is told to say."
    seed = json.loads(SEED)
    for name, options, good in (
        ("peft", None, True),
        ("peft", {"steps": 1}, False),
        ("mock", {"steps": 1}, True),
        ("mock", {"steps": "1"}, False),
        ("echo", {"say": "x"}, True),
        ("echo", {"sing": "x"}, False),
    ):
        body = seed | {"backend": name} | ({"backend_options": options} if options else {})
        schema = found[name]["schema"]
        Draft202012Validator.check_schema(schema)
        assert Draft202012Validator(schema).is_valid(body) == good, (name, options)
        assert not Draft202012Validator(schema).is_valid(body | {"backend": "other"})


def test_a_body_that_names_another_backend_is_refused_with_all_else_that_is_wrong(stack):
    body = json.loads(SEED) | {"backend": "mock", "job_id": "other"}
    status, answer = stack.http("POST", "/backends/peft/train", json.dumps(body).encode())
    assert (status, violations(answer)) == (400, [("backend", "CONTRADICTION")])
    body["customization"]["rank"] = 0
    status, answer = stack.http("POST", "/backends/peft/train", json.dumps(body).encode())
    assert violations(answer) == [("backend", "CONTRADICTION"), ("customization.rank", "OUT_OF_RANGE")]
    assert stack.http("GET", "/train/other")[0] == 404


def test_an_address_of_no_backend_is_refused_listing_those_there_are(stack):
    status, answer = stack.http("POST", "/backends/turbo/train", SEED)
    assert (status, violations(answer)) == (400, [("backend", "UNKNOWN_VALUE")])
    assert "echo, mock, peft" in json.dumps(answer)


def test_the_same_body_at_the_same_address_is_the_same_job_and_both_doors_read_strictly(stack):
    body = SEED.replace(b"unique-train-id", b"by-address").replace(b"models/job-id", b"models/by-address")
    first = stack.http("POST", "/backends/peft/train", body)
    again = stack.http("POST", "/backends/peft/train", body)
    assert (first[0], again[0], first[1]["uid"]) == (200, 200, again[1]["uid"])
    status, answer = stack.http("POST", "/backends/peft/train", body.replace(b'"rank"', b'"rnak"'))
    assert (status, violations(answer)) == (400, [("customization.rnak", "UNKNOWN_FIELD")])
    assert stack.http("POST", "/backends/peft/train?body.data=x", body)[0] == 400
    assert stack.http("POST", "/backends/peft/train", body, **{"content-type": "text/plain"})[0] == 415
    stack.http("POST", "/train/by-address:cancel", b"{}")
