"""Datasets of the hub: one split of a repository at one commit, with the job's token."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.inputs.choice import dataset_files
from agent.inputs.failures import InputError
from agent.inputs.fetch import fetch
from tests.integration.inputs.conftest import Told

ROWS = b'{"text": "a row"}\n'
FIELD = "datasets[0].source"


@pytest.fixture
def repository(tmp_path):
    files = {
        "README.md": b"# Rows",
        "dataset_infos.json": b"{}",
        "data/train-00000-of-00002.jsonl": ROWS,
        "data/train-00001-of-00002.jsonl": ROWS * 2,
        "data/test.jsonl": ROWS * 5,
    }
    for name, data in files.items():
        path = tmp_path / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "rows"


def spec(source: str = "hf:owner/rows", **more):
    return {"datasets": [{"source": source, "split": "train", **more}]}


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return caught.value


def test_the_files_of_a_split_come_at_one_commit(mirror, job, repository):
    commit = mirror.serve("datasets/owner/rows", repository)
    told = Told()
    [dataset] = fetch(job(spec()), told)["inputs"]["datasets"]
    path = Path(dataset["path"])
    assert dataset["commit"] == commit
    assert [(file.name, file.read_bytes()) for file in sorted(path.iterdir())] == [
        ("train-00000-of-00002.jsonl", ROWS),
        ("train-00001-of-00002.jsonl", ROWS * 2),
    ]
    assert told.expected == [len(ROWS) * 3]
    assert not any("/api/models/" in asked.path for asked in mirror.asked)


def test_an_eval_split_of_one_file_is_that_file(mirror, job, repository):
    mirror.serve("datasets/owner/rows", repository)
    [dataset] = fetch(job(spec(split="eval")), Told())["inputs"]["datasets"]
    assert Path(dataset["path"]).name == "test.jsonl"
    assert Path(dataset["path"]).read_bytes() == ROWS * 5


def test_a_revision_is_that_of_the_source(mirror, job, repository):
    mirror.serve("datasets/owner/rows", repository)
    (repository / "data" / "train-00000-of-00002.jsonl").write_bytes(b"")
    newer = mirror.repositories["datasets/owner/rows"].commit(repository, "v2")
    [dataset] = fetch(job(spec("hf:owner/rows@v2")), Told())["inputs"]["datasets"]
    assert dataset["commit"] == newer
    refused = refusal(fetch, job(spec("hf:owner/rows@v3")), Told())
    assert (refused.reason, refused.lasting) == ("DATASET_NOT_FOUND", True)
    assert str(refused).startswith(f"{FIELD}: owner/rows has no branch, tag or commit v3")


def test_what_is_whole_already_is_not_brought_again(mirror, job, repository):
    mirror.serve("datasets/owner/rows", repository)
    fetch(job(spec()), Told())
    mirror.asked.clear()
    fetch(job(spec()), Told())
    assert mirror.asked_for("/resolve/") == []


def test_a_private_dataset_needs_the_jobs_token(mirror, job, repository):
    mirror.serve("datasets/owner/rows", repository, token="hf_right")
    secrets = {"base_model.auth_token": "hf_right"}
    assert fetch(job(spec(), secrets=secrets), Told())["inputs"]["datasets"][0]["commit"]
    refused = refusal(fetch, job(spec()), Told())
    assert refused.reason == "HUB_UNAUTHORIZED"
    assert "shows no dataset owner/rows without a token" in str(refused)
    assert FIELD in str(refused)


def test_a_dataset_that_is_not_there_is_named_by_its_field(mirror, job):
    refused = refusal(fetch, job(spec(), secrets={}), Told())
    assert refused.reason in {"DATASET_NOT_FOUND", "HUB_UNAUTHORIZED"}
    assert FIELD in str(refused)


def test_a_hub_that_fails_is_tried_again_and_blamed_on_the_source(mirror, job, repository):
    mirror.serve("datasets/owner/rows", repository)
    mirror.faults.statuses = [500] * 20
    refused = refusal(fetch, job(spec()), Told())
    assert (refused.reason, refused.lasting) == ("HUB_UNAVAILABLE", False)
    assert str(refused).startswith(f"{FIELD}: ")


CHOSEN = {
    "parquet before others": (["train.csv", "train.parquet", "train.jsonl"], "train", "", ["train.parquet"]),
    "the format that is said": (["train.csv", "train.parquet"], "train", "csv", ["train.csv"]),
    "all where no name says any": (["b.jsonl", "a.jsonl", "README.md"], "train", "", ["a.jsonl", "b.jsonl"]),
    "directories of splits": (["train/0.parquet", "test/0.parquet"], "train", "", ["train/0.parquet"]),
    "validation before test": (["test.json", "validation.json", "train.json"], "eval", "", ["validation.json"]),
    "words only": (["latest.jsonl", "contrain.jsonl"], "train", "", ["contrain.jsonl", "latest.jsonl"]),
    "no hidden files": ([".cache/train.jsonl", "a-train.jsonl"], "train", "", ["a-train.jsonl"]),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_files_are_chosen_by_their_names(case: str):
    there, split, form, chosen = CHOSEN[case]
    assert dataset_files("owner/rows", there, split=split, form=form, field=FIELD) == chosen


REFUSED = {
    "no data": (["README.md", "a.bin"], "train", "", r"has no file that ends in \.parquet, .*, but README\.md, a\.bin"),
    "not of the format": (["a.parquet"], "train", "csv", r"has no file that ends in \.csv, but a\.parquet"),
    "no eval split": (
        ["train.jsonl"],
        "eval",
        "",
        r"no file of owner/rows is of split eval by its name \(validation, ",
    ),
    "only a test split": (["test.jsonl"], "train", "", "is of split train by its name"),
    "languages": (
        ["de/train.jsonl", "en/train.jsonl"],
        "train",
        "",
        r"in several directories \(de, en\): give the https://",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_is_refused_with_what_there_is(case: str):
    there, split, form, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        dataset_files("owner/rows", there, split=split, form=form, field=FIELD)
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert str(caught.value).startswith(f"{FIELD}: ")
