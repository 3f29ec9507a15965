import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from controlplane.domain.spec import problem
from tests.support.bad_requests import BAD_REQUESTS
from trainplane.errors import InvalidRequest
from trainplane.sdk.spec_message import to_message

REASONS = {word for name, word in vars(problem).items() if name.isupper() and not name.startswith("_")}
SEED = Path(__file__).parents[3] / "examples" / "seed-train-request.json"


def violations(body: str) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        to_message(body.encode())
    return {each.field: each.reason for each in caught.value.violations}


def test_the_seeds_request_becomes_a_message_that_says_the_same():
    said = json.loads(SEED.read_text())
    del said["base_model"]["weights_url"]  # null is "not set"
    assert MessageToDict(to_message(SEED.read_bytes()), preserving_proto_field_name=True) == said


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"base_modle": {}}', {"base_modle": "UNKNOWN_FIELD"}),
        ('{"customization": {"rank": "8"}}', {"customization.rank": "WRONG_TYPE"}),
        ('{"customization": {"rank": 8.5}}', {"customization.rank": "WRONG_TYPE"}),
        ('{"customization": {"rank": true}}', {"customization.rank": "WRONG_TYPE"}),
        ('{"customization": {"rank": 4294967296}}', {"customization.rank": "WRONG_TYPE"}),
        ('{"customization": {"lora_alpha": NaN}}', {"customization.lora_alpha": "WRONG_TYPE"}),
        ('{"customization": {"lora_alpha": 1e999}}', {"customization.lora_alpha": "WRONG_TYPE"}),
        ('{"customization": {"target_modules": "q"}}', {"customization.target_modules": "WRONG_TYPE"}),
        ('{"customization": {"target_modules": ["q", 1]}}', {"customization.target_modules[1]": "WRONG_TYPE"}),
        ('{"datasets": {"source": "x"}}', {"datasets": "WRONG_TYPE"}),
        ('{"datasets": [{"sauce": "x"}]}', {"datasets[0].sauce": "UNKNOWN_FIELD"}),
        ('{"datasets": [null]}', {"datasets[0]": "WRONG_TYPE"}),
        ('{"labels": {"a": 1}}', {"labels.a": "WRONG_TYPE"}),
        ('{"backend_options": [1]}', {"backend_options": "WRONG_TYPE"}),
        ('{"job_id": "a", "job_id": "b"}', {"job_id": "DUPLICATE_FIELD"}),
        ('{"job_id": "\\ud800"}', {"job_id": "MALFORMED"}),
        ('{"labels": {"\\udc00": "x"}}', {"labels.\\udc00": "MALFORMED"}),
        ('{"backend_options": {"a": "\\udc00"}}', {"backend_options": "WRONG_TYPE"}),
        ("[]", {"": "WRONG_TYPE"}),
        ("{'a': 1}", {"": "INVALID_JSON"}),
        ("[" * 100_000, {"": "TOO_DEEP"}),
        ('{"backend_options": ' + '{"a":' * 50 + "1" + "}" * 51, {"backend_options": "WRONG_TYPE"}),
    ],
)
def test_each_fault_is_named_by_its_path(body, expected):
    assert violations(body) == expected


@pytest.mark.parametrize("case", BAD_REQUESTS, ids=lambda case: case.name)
def test_what_it_refuses_it_refuses_by_a_reason_of_the_control_planes(case):
    refused = ()
    try:
        to_message(case.body)
    except InvalidRequest as error:
        refused = error.violations
    assert {each.reason for each in refused} <= REASONS


def test_all_faults_come_at_once():
    assert len(violations('{"a": 1, "b": 2, "customization": {"rank": "x"}}')) == 3


def test_an_unknown_field_suggests_the_nearest():
    with pytest.raises(InvalidRequest) as caught:
        to_message(b'{"tuning_parameters": {"learning_rat": 1}}')
    assert "learning_rate" in caught.value.violations[0].description


def test_a_wrong_value_is_never_echoed():
    with pytest.raises(InvalidRequest) as caught:
        to_message(b'{"base_model": {"auth_token": ["hf_secret"]}}')
    assert "hf_secret" not in repr(caught.value.violations)


def test_an_absent_block_stays_absent_and_an_empty_one_is_present():
    spec = to_message(b'{"resources": {}}')
    assert spec.HasField("resources")
    assert not spec.HasField("artifacts")
