"""`POST /train:validate` through Envoy: what a request would come to, and nothing of it stored."""

from __future__ import annotations

import json

from tests.support.stack import SEED, mock_spec


def test_the_users_own_request_is_valid_and_cannot_run_on_a_node_of_other_devices(stack, node):
    # With the fake trainer, for which no node asks the real hub and S3; test_preflight_of_the_seed has both.
    status, found = stack.http("POST", "/train:validate", json.dumps(json.loads(SEED) | {"backend": "mock"}).encode())
    assert status == 200, found
    assert (found["valid"], found["feasible"]) == (True, False)
    assert found["infeasible_reason"] == "needs 4 x A100; no node has A100"
    assert [warning["field"] for warning in found["warnings"]] == ["customization.qlora"]
    by_name = {check["name"]: check for check in found["checks"]}
    assert (by_name["model"]["status"], by_name["webhook"]["status"]) == ("SKIPPED", "FAILED")
    assert by_name["webhook"]["message"].startswith("callbacks.webhook_url: ")
    assert stack.http("GET", "/train/unique-train-id")[0] == 404


def test_what_a_submit_refuses_is_told_with_200(stack, node, tmp_path):
    body = mock_spec("refused", tmp_path) | {"nonsense": 1}
    body["customization"]["rank"] = 0
    status, found = stack.http("POST", "/train:validate", json.dumps(body).encode())
    refused = stack.http("POST", "/train", json.dumps(body).encode())[1]["details"][0]["field_violations"]
    assert (status, found["valid"]) == (200, False)
    assert found["violations"] == [{key: each[key] for key in ("field", "reason", "description")} for each in refused]
    assert "estimate" not in found
    assert stack.http("GET", "/train")[1]["jobs"] == []


def test_a_body_that_is_no_json_object_is_400_and_another_media_type_415(stack):
    status, answer = stack.http("POST", "/train:validate", b'{"job_id": "a", "job_id": "b"}')
    assert (status, answer["details"][0]["field_violations"][0]["reason"]) == (400, "DUPLICATE_FIELD")
    assert stack.http("POST", "/train:validate", b"{}", **{"content-type": "text/plain"})[0] == 415
    assert stack.http("POST", "/train:validate?data=x", b"{}")[0] == 400
    assert stack.http("GET", "/train:validate")[0] == 405
