"""What is taken, what it becomes, and what is merely warned of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.rpc.error_details_pb2 import BadRequest as BadRequestDetail

from controlplane.domain.errors import InvalidSpec, Violation
from controlplane.domain.spec import MAX_BODY_BYTES, Rules, check, fit, is_job_id, parse
from tests.support.bad_requests import LOCAL, SEED, changed, seed_spec
from trainplane.backends.peft_methods import METHODS, PLACES


def _refused(spec: dict[str, Any], rules: Rules | None = None) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as refused:
        check(spec, rules=rules or Rules())
    return [(found.field, found.reason) for found in refused.value.violations]


def test_a_body_of_exactly_256_kib_and_a_nesting_of_exactly_32_are_read():
    assert parse(SEED + b" " * (MAX_BODY_BYTES - len(SEED))) == parse(SEED)
    deep = b'{"a":' * 32 + b"1" + b"}" * 32
    assert json.loads(deep) == parse(deep)
    with pytest.raises(InvalidSpec):
        parse(b'{"a":' * 33 + b"1" + b"}" * 33)


def test_brackets_in_texts_are_no_nesting():
    body = json.dumps({"labels": {"a": "[{" * 100 + '\\"{['}}).encode()
    assert parse(body) == json.loads(body)


def test_escapes_of_ordinary_characters_are_read():
    assert parse(b'{"a": "\\u00e9\\ud83d\\ude00"}') == {"a": "é😀"}


def test_a_syntax_error_names_line_and_column():
    with pytest.raises(InvalidSpec) as refused:
        parse(b'{\n  "job_id": "x",\n  nope\n}')
    assert "line 3 column 3" in refused.value.violations[0].description


def test_locations_end_in_a_slash_and_default_to_the_platform_s_prefix_and_the_job_s_id():
    rules = Rules(default_output_uri="s3://bucket/models/", default_log_uri="file:///logs")
    spec = changed(changed(LOCAL, "artifacts", None), "job_id", None)
    effective = check(spec, rules=rules, fallback_job_id="made-up").effective
    assert effective["job_id"] == "made-up"
    assert effective["artifacts"]["output_uri"] == "s3://bucket/models/made-up/"
    assert effective["artifacts"]["log_uri"] == "file:///logs/made-up/"
    given = check(changed(LOCAL, "artifacts.output_uri", "file:///o"), rules=rules)
    assert given.effective["artifacts"]["output_uri"] == "file:///o/"
    assert given.sent["artifacts"]["output_uri"] == "file:///o"
    assert given.job_id == "local-job"
    assert check(spec, rules=rules, fallback_job_id="made-up").job_id is None


def test_local_places_must_lie_below_the_allowed_roots():
    rules = Rules(local_roots=("/models", "/data", "/results"))
    assert check(LOCAL, rules=rules)
    assert _refused(changed(LOCAL, "base_model.model_name", "/modelsx/small"), rules) == [
        ("base_model.model_name", "NOT_ALLOWED")
    ]
    assert _refused(changed(LOCAL, "datasets[].source", "file:///etc/passwd"), rules) == [
        ("datasets[0].source", "NOT_ALLOWED")
    ]
    assert _refused(changed(LOCAL, "artifacts.output_uri", "file:///root/"), rules) == [
        ("artifacts.output_uri", "NOT_ALLOWED")
    ]


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("customization.qlora", {"use_double_quant": True}, "customization.qlora"),
        ("resources.gpu_type", "A100", "resources.gpu_type"),
        ("base_model.revision", "main", "base_model.revision"),
        ("base_model.auth_token", "hf_x", "base_model.auth_token"),
        ("callbacks.auth_header", "Bearer x", "callbacks.auth_header"),
        ("callbacks.events", ["job.failed"], "callbacks.events"),
        ("datasets[].auth", {"role_arn": "arn:aws:iam::123:role/x"}, "datasets[0].auth"),
        ("artifacts.auth", {"role_arn": "arn:aws:iam::123:role/x"}, "artifacts.auth"),
    ],
)
def test_what_does_nothing_is_taken_with_a_warning(path: str, value: Any, field: str):
    warnings = check(changed(LOCAL, path, value), rules=Rules()).warnings
    assert [(warning.field, warning.reason) for warning in warnings] == [(field, "NO_EFFECT")]


@pytest.mark.parametrize(
    "config",
    [{"r": 16}, {"peft_type": "LORA"}, {"lora_alpha": 32.0}, {"target_modules": ["all-linear"]}, {"lora_dropout": 0}],
)
def test_a_peft_field_that_agrees_with_its_own_place_is_taken_and_stands_only_there(config: dict[str, Any]):
    checked = check(changed(LOCAL, "customization.peft.config", config), rules=Rules())
    assert checked.effective["customization"]["peft"]["config"] == {"task_type": "CAUSAL_LM"}


def test_results_beside_the_inputs_are_taken():
    spec = changed(LOCAL, "artifacts.output_uri", "file:///data/train.jsonl.out/")
    assert check(changed(spec, "artifacts.log_uri", "file:///data/train.jsonl.out/logs/"), rules=Rules())


@pytest.mark.parametrize("arn", ["arn:aws:iam::123:role/FineTune", "arn:aws-us-gov:iam::123456789012:role/a/b+=,.@-"])
def test_roles_of_every_partition_are_taken(arn: str):
    assert check(changed(seed_spec(), "datasets[].auth.role_arn", arn), rules=Rules())


@pytest.mark.parametrize("name", ["a/b", "meta-llama/Llama-2-7b", "o_o/x.y-z", "a" * 96 + "/" + "b" * 96])
def test_hub_ids_are_taken(name: str):
    assert check(changed(seed_spec(), "base_model.model_name", name), rules=Rules())


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/7", "a" * 40, "feature/x_y-z"])
def test_revisions_are_taken(revision: str):
    assert check(changed(seed_spec(), "base_model.revision", revision), rules=Rules())


@pytest.mark.parametrize(
    "place",
    [
        "file:///a b/ü.jsonl",
        "file:///a%20b.jsonl",
        "s3://bucket/a..b/c",
        "s3://my.bucket/.hidden/x",
        "s3://bucket/100%",
    ],
)
def test_unusual_places_are_taken_as_they_are(place: str):
    assert check(changed(LOCAL, "datasets[].source", place), rules=Rules()).sent["datasets"][0]["source"] == place


def test_a_thousand_datasets_are_taken():
    spec = changed(LOCAL, "datasets", [{"source": f"file:///data/{number}.jsonl"} for number in range(1000)])
    assert len(check(spec, rules=Rules()).effective["datasets"]) == 1000


def test_the_chat_template_keeps_its_lines():
    template = "{% for m in messages %}\n\t{{ m.content }}\n{% endfor %}"
    checked = check(changed(LOCAL, "tuning_parameters.chat_template", template), rules=Rules())
    assert checked.effective["tuning_parameters"]["chat_template"] == template


def test_free_form_objects_are_bounded():
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    config = "customization.peft.config"
    for value, reason in (
        (deep, "TOO_DEEP"),
        (2**60, "OUT_OF_RANGE"),
        ("x" * 5000, "TOO_LONG"),
        ("\x00", "MALFORMED"),
        ([0] * 2000, "TOO_MANY"),
    ):
        assert reason in {found for _, found in _refused(changed(LOCAL, config, {"x": value}))}


def test_violations_come_in_the_order_of_the_table_and_unknown_fields_last():
    spec = changed(changed(changed(LOCAL, "zzz", 1), "priority", 101), "job_id", "a b")
    assert [field for field, _ in _refused(spec)] == ["job_id", "priority", "zzz"]


@pytest.mark.parametrize("count", [1, 10, 100, 1000])
def test_as_many_violations_as_fit_are_kept_and_the_others_counted(count: int):
    violations = [
        Violation(f"field_{number}.ü", "UNKNOWN_FIELD", "no such field; did you mean …?") for number in range(count)
    ]
    kept, left_out = fit(violations)
    detail = BadRequestDetail(
        field_violations=[
            BadRequestDetail.FieldViolation(field=found.field, reason=found.reason, description=found.description)
            for found in kept
        ]
    )
    assert len(kept) + left_out == count
    assert list(kept) == violations[: len(kept)]
    assert detail.ByteSize() <= 6 * 1024
    assert left_out == 0 or detail.ByteSize() > 6 * 1024 * 0.8


def test_one_violation_is_kept_whatever_its_size():
    assert fit([Violation("x", "Y", "z" * 10_000)] * 3)[1] == 2


def test_a_job_s_id_can_be_judged_by_itself():
    assert is_job_id("a-Z_9")
    assert is_job_id("x" * 63)
    assert not any(is_job_id(text) for text in ("", "x" * 64, "a b", "a\n", "é"))


def test_a_prompt_method_is_not_packed():
    spec = changed(changed(LOCAL, "customization.method", "prefix_tuning"), "tuning_parameters.packing", True)
    assert ("tuning_parameters.packing", "CONTRADICTION") in _refused(spec)


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("file:///data/a.jsonl", "jsonl"),
        ("file:///data.csv/a", "jsonl"),
        ("file:///data/a.JSON", "json"),
        ("s3://bucket/a.parquet", "parquet"),
        ("file:///data/book.txt", "text"),
    ],
)
def test_the_suffix_tells_the_format_that_is_not_said(source: str, form: str):
    checked = check(changed(LOCAL, "datasets[].source", source), rules=Rules())
    assert checked.effective["datasets"][0]["format"] == form
    assert "format" not in checked.sent["datasets"][0]


@pytest.mark.parametrize(
    "source",
    ["https://example.com/rows.jsonl?signature=a", "hf:owner/name", "hf:owner/name@v1.0", "hf:o.w-n/name@refs/pr/1"],
)
def test_rows_by_https_and_from_the_hub_are_taken_and_a_role_for_them_does_nothing(source: str):
    spec = changed(LOCAL, "datasets", [{"source": source, "auth": {"role_arn": "arn:aws:iam::1:role/x"}}])
    checked = check(spec, rules=Rules())
    (dataset,) = checked.effective["datasets"]
    assert dataset["source"] == source
    assert "auth" not in dataset
    assert ("format" in dataset) is source.startswith("https")
    assert [warning.field for warning in checked.warnings] == ["datasets[0].auth"]


def test_a_share_of_what_is_evaluated_does_nothing():
    rows = [{"source": "file:///data/a", "weight": 2}, {"source": "file:///data/b", "split": "eval", "weight": 2}]
    checked = check(changed(LOCAL, "datasets", rows), rules=Rules())
    assert [warning.field for warning in checked.warnings] == ["datasets[1].weight"]


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_effective_spec_has_the_fields_that_it_has_and_is_judged_the_same_again(method: str):
    spec = changed(LOCAL, "customization", {"method": method})
    effective = check(spec, rules=Rules()).effective
    custom = effective["customization"]
    assert {name for name in PLACES if name in custom} <= METHODS[method].places
    assert ("rank" in custom) == ("rank" in METHODS[method].places)
    assert custom["peft"]["use"] == (method != "full")
    assert ("qlora" in custom) == (method == "qlora")
    assert check(effective, rules=Rules()).effective == effective


def test_a_method_s_fields_of_peft_stand_in_their_own_places_only():
    given = {"method": "adalora", "rank": 4, "peft": {"config": {"target_r": 4, "peft_type": "ADALORA", "init_r": 6}}}
    custom = check(changed(LOCAL, "customization", given), rules=Rules()).effective["customization"]
    assert custom["peft"]["config"] == {"task_type": "CAUSAL_LM", "init_r": 6}


def test_a_token_for_a_push_is_no_idle_one():
    """A local model needs none, and the push does."""
    local = {
        "base_model": {"provider": "local", "model_name": "/models/tiny", "auth_token": "hf_secret"},
        "customization": {"method": "lora"},
        "datasets": [{"source": "file:///data/train.jsonl"}],
        "artifacts": {"output_uri": "file:///results/x/"},
    }
    assert [each.field for each in check(local, rules=Rules()).warnings] == ["base_model.auth_token"]
    assert check({**local, "export": {"push_to_hub": "owner/name"}}, rules=Rules()).warnings == ()


def test_a_type_of_gguf_without_gguf_does_nothing():
    spec = {
        "base_model": {"provider": "local", "model_name": "/models/tiny"},
        "customization": {"method": "lora"},
        "datasets": [{"source": "file:///data/train.jsonl"}],
        "artifacts": {"output_uri": "file:///results/x/"},
    }
    told = check({**spec, "export": {"gguf_type": "q8_0"}}, rules=Rules()).warnings
    assert [(each.field, each.reason) for each in told] == [("export.gguf_type", "NO_EFFECT")]
    assert check({**spec, "export": {"gguf": True, "gguf_type": "q8_0"}}, rules=Rules()).warnings == ()
