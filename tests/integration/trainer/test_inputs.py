"""What the agent has fetched is trained on, and called by the names that the request has."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from tests.integration.trainer.attempts import QUESTIONS, Attempt, failed_with

HUB = {"provider": "huggingface", "model_name": "owner/name", "revision": "main"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def fetched(attempt: Attempt) -> Attempt:
    """An attempt on a model of the hub and a dataset of S3, both on this node's disk."""
    attempt.assign(base_model=HUB, datasets=[{"source": "s3://bucket/rows.jsonl"}], tuning_parameters={"max_steps": 1})
    attempt.fetched(name="owner/name", commit=COMMIT, datasets=[attempt.directory / "rows.jsonl"])
    return attempt


def test_outputs_call_the_model_by_its_name_on_the_hub(fetched: Attempt):
    path = fetched.directory / "assignment.json"
    document = json.loads(path.read_text())
    document["spec"]["export"] = {"merged": True, "gguf": True}
    path.write_text(json.dumps(document))
    assert fetched.run() == 0, fetched.reports[-1]
    config = json.loads((fetched.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/name"
    assert 'base_model: "owner/name"' in (fetched.output / "README.md").read_text()
    for path in filter(Path.is_file, fetched.output.rglob("*")):
        assert str(fetched.model).encode() not in path.read_bytes(), f"{path.name} names a path of this node"


def test_the_provenance_has_the_commit_and_the_digests(fetched: Attempt):
    assert fetched.run() == 0
    model = fetched.provenance["base_model"]
    assert (model["model_name"], model["commit"]) == ("owner/name", COMMIT)
    weights = (fetched.model / "model.safetensors").read_bytes()
    assert model["sha256"]["model.safetensors"] == sha256(weights).hexdigest()
    (source,) = fetched.provenance["datasets"]["sources"]
    assert (source["source"], source["rows"]) == ("s3://bucket/rows.jsonl", len(QUESTIONS))
    assert source["sha256"] == sha256((fetched.directory / "rows.jsonl").read_bytes()).hexdigest()


def test_no_key_in_an_address_is_published_told_or_logged(attempt: Attempt):
    sources = [{"source": "https://user:hunter2@data.example/rows.jsonl?X-Amz-Signature=5e6a7ed"}]
    stream = {"status_stream_url": "https://stream.example/a?token=5e6a7ed"}
    attempt.assign(base_model=HUB, datasets=sources, tuning_parameters={"max_steps": 1})
    path = attempt.directory / "assignment.json"
    document = json.loads(path.read_text())
    document["spec"]["artifacts"] = {**document["spec"].get("artifacts", {}), **stream}
    path.write_text(json.dumps(document))
    attempt.fetched(name="owner/name", commit=COMMIT, datasets=[attempt.directory / "rows.jsonl"])
    assert attempt.run() == 0, attempt.reports[-1]
    shown = "https://redacted@data.example/rows.jsonl?redacted"
    assert attempt.provenance["datasets"]["sources"][0]["source"] == shown
    assert attempt.provenance["spec"]["datasets"][0]["source"] == shown
    audited = json.loads((attempt.output / "audit.json").read_text())
    assert audited["rendered"]["row"] == f"datasets[0].source: row 1 of {shown}"
    written = [each for each in attempt.directory.rglob("*") if each.is_file() and each.name != "assignment.json"]
    holding = [each.name for each in written if b"5e6a7ed" in (data := each.read_bytes()) or b"hunter2" in data]
    assert holding == []


def test_a_broken_row_is_named_by_its_source(fetched: Attempt):
    (fetched.directory / "rows.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    reason, message = failed_with(fetched)
    assert reason == "DATASET_INVALID"
    assert message.startswith("datasets[0].source: row 2 of s3://bucket/rows.jsonl: ")


def test_a_model_that_cannot_be_trained_is_called_by_its_name(fetched: Attempt, tmp_path: Path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "model" / name).write_bytes((fetched.model / name).read_bytes())
    (tmp_path / "model" / "pytorch_model.bin").touch()
    Attempt(fetched.directory, tmp_path / "model").fetched(
        name="owner/name", commit="", datasets=[fetched.directory / "rows.jsonl"]
    )
    reason, message = failed_with(fetched)
    assert reason == "MODEL_FORMAT_UNSUPPORTED"
    assert message.startswith("base_model.model_name: owner/name has no model*.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "inputs.json cannot be read"),
        ("[]", "inputs.json is not a JSON object"),
        ('{"model": {"path": "/m"}}', "inputs.json.model.name: must be set"),
        ('{"model": {"path": "/m", "name": "a/b"}, "datasets": []}', "0 paths for the spec's 1 datasets"),
    ],
)
def test_inputs_that_break_the_contract_are_told(fetched: Attempt, content: str, words: str):
    (fetched.directory / "inputs.json").write_text(content)
    reason, message = failed_with(fetched)
    assert reason == "CONFIG_INVALID"
    assert words in message


def test_without_inputs_a_source_elsewhere_was_not_fetched(attempt: Attempt):
    attempt.assign(datasets=[{"source": "s3://bucket/rows.jsonl"}])
    reason, message = failed_with(attempt)
    assert reason == "CONFIG_INVALID"
    assert message.startswith("datasets[0].source: s3://bucket/rows.jsonl was not fetched")


def test_a_dataset_of_several_files_is_read_in_the_order_of_their_names(attempt: Attempt):
    folder = attempt.directory / "inputs" / "dataset-0"
    folder.mkdir(parents=True)
    rows = [json.dumps(row) + "\n" for row in QUESTIONS]
    (folder / "train-1.jsonl").write_text("".join(rows[8:]))
    (folder / "train-0.jsonl").write_text("".join(rows[:8]))
    attempt.assign(datasets=[{"source": "hf:owner/rows@v1"}], tuning_parameters={"max_steps": 1})
    document = {
        "model": {"path": str(attempt.model), "name": str(attempt.model)},
        "datasets": [{"path": str(folder), "commit": COMMIT}],
    }
    (attempt.directory / "inputs.json").write_text(json.dumps(document))
    assert attempt.run() == 0, attempt.reports[-1]
    (source,) = attempt.provenance["datasets"]["sources"]
    assert (source["source"], source["commit"], source["rows"]) == ("hf:owner/rows@v1", COMMIT, len(QUESTIONS))
    audited = json.loads((attempt.output / "audit.json").read_text())
    assert audited["rendered"]["row"] == "datasets[0].source: row 1 of train-0.jsonl of hf:owner/rows@v1"


def test_a_broken_row_of_one_of_several_files_names_that_file(attempt: Attempt):
    folder = attempt.directory / "inputs"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n')
    (folder / "b.jsonl").write_text('{"text": "b"}\n{"text": 5}\n')
    attempt.assign(datasets=[{"source": "hf:owner/rows"}])
    attempt.fetched(name="owner/name", commit="", datasets=[folder])
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert message.startswith("datasets[0].source: row 2 of b.jsonl of hf:owner/rows: ")
