import json

import pytest

from trainplane.errors import InvalidRequest
from trainplane.sdk import documents


def test_json_text_and_bytes_pass_unchanged():
    assert documents.as_json(b'{"a": 1, "a": 2}') == b'{"a": 1, "a": 2}'
    assert documents.as_json('{"a": 1e400}') == b'{"a": 1e400}'


def test_a_json_file_passes_byte_for_byte(tmp_path):
    file = tmp_path / "request.json"
    file.write_bytes(b' {"a" : 1}\n')
    assert documents.as_json(file) == b' {"a" : 1}\n'


def test_a_yaml_file_becomes_json(tmp_path):
    file = tmp_path / "request.yaml"
    file.write_text("customization:\n  method: lora\n  target_modules: [q_proj, v_proj]\n")
    assert json.loads(documents.as_json(file)) == {
        "customization": {"method": "lora", "target_modules": ["q_proj", "v_proj"]}
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("0.1", 0.1),
        ("12", 12),
        ("-3", -3),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2024-01-01", "2024-01-01"),
        ("010", 10),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ("1:30", "1:30"),
    ],
)
def test_yaml_scalars_are_read_by_the_core_schema(text, value):
    read = json.loads(documents.yaml_as_json(f"x: {text}\n".encode()))["x"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "a: [1\n", "a: !!python/object:os.system x\n", "\x00"])
def test_broken_or_unsafe_yaml_is_an_invalid_request(text):
    with pytest.raises(InvalidRequest) as caught:
        documents.yaml_as_json(text.encode())
    assert caught.value.violations[0].reason == "MALFORMED_YAML"


@pytest.mark.parametrize(
    ("body", "has_key"),
    [
        (b'{"job_id": "mine"}', False),
        (b'{"job_id": null}', True),
        (b"{}", True),
        (b"[]", False),
        (b"not json", False),
        (b"\xff", False),
    ],
)
def test_only_a_description_without_an_id_gets_a_key(body, has_key):
    assert bool(documents.idempotency_key(body)) is has_key


def test_keys_differ():
    assert documents.new_job_id() != documents.new_job_id()
