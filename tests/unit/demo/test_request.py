from __future__ import annotations

import json
from pathlib import Path

from trainplane.demo import request

PLACES = request.Places(
    job_id="demo-7",
    model_dir=Path("/models/a b"),
    output_dir=Path("/out/demo-7"),
    webhook_url="http://127.0.0.1:4711/webhook",
)


def test_the_places_of_this_machine_are_filled_in():
    body = request.build(PLACES)
    assert body["job_id"] == "demo-7"
    assert body["base_model"]["model_name"] == "/models/a b"
    assert body["datasets"][0]["source"] == request.TRAIN_FILE.as_uri()
    assert body["artifacts"]["output_uri"] == "file:///out/demo-7/"
    assert body["callbacks"]["webhook_url"] == "http://127.0.0.1:4711/webhook"


def test_nothing_else_of_the_committed_request_changes():
    body = request.build(PLACES)
    committed = json.loads(request.REQUEST_FILE.read_text())
    assert body.keys() == committed.keys()
    for block in ("resources", "tuning_parameters"):
        assert body[block] == committed[block]
    assert body["customization"] | {"precision": ""} == committed["customization"] | {"precision": ""}


def test_training_reads_the_training_file_and_nothing_of_the_heldout_rows():
    assert [source["source"] for source in request.build(PLACES)["datasets"]] == [request.TRAIN_FILE.as_uri()]


def test_the_demo_fits_a_machine_of_two_cores_and_four_gib_without_a_gpu():
    resources = request.build(PLACES)["resources"]
    assert resources["gpus"] == 0
    assert resources["cpus"] <= 2
    assert resources["memory_gb"] < 4
