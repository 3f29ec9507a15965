"""Several datasets with shares, held-out rows, and the audit of what is trained on."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.trainer.assignment import DatasetSource
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.rows import Text
from agent.trainer.data.splitting import hold_out
from agent.trainer.failures import DatasetEmpty
from tests.integration.trainer.attempts import failed_with

if TYPE_CHECKING:
    from pathlib import Path

    from agent.trainer.data.dataset import Dataset
    from tests.integration.trainer.attempts import Attempt


def datasets(directory: Path, *several: list[str], seed: int) -> list[Dataset]:
    read = []
    for index, texts in enumerate(several):
        file = directory / f"{index}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        read.append(read_dataset(DatasetSource(index=index, source=file.as_uri()), seed=seed))
    return read


def held_out(directory: Path, *several: list[str], fraction: float, seed: int) -> list[set[int]]:
    """The places of the rows that are held out of each of several datasets."""
    found = datasets(directory, *several, seed=seed)
    last = hold_out(found, fraction=fraction)
    return [
        {start + place for start, block in of.rows.entries() for place in np.flatnonzero(block["key"] <= last).tolist()}
        for of in found
    ]


def test_held_out_rows_are_as_many_as_asked_and_the_seed_s(tmp_path: Path):
    texts = [f"a{n}" for n in range(80)], [f"b{n}" for n in range(20)]
    chosen = held_out(tmp_path, *texts, fraction=0.2, seed=1)
    assert sum(map(len, chosen)) == 20
    assert all(chosen)
    assert held_out(tmp_path, *texts, fraction=0.2, seed=1) == chosen
    assert held_out(tmp_path, *texts, fraction=0.2, seed=2) != chosen


def test_the_rows_held_out_are_those_whose_digests_come_first(tmp_path: Path):
    texts = [f"t{n}" for n in range(300)]
    (chosen,) = held_out(tmp_path, texts, fraction=0.13, seed=5)
    in_order = sorted(
        range(300), key=lambda place: sha256(b"5/" + sha256(repr(Text(texts[place])).encode()).digest()[:16]).digest()
    )
    assert chosen == set(in_order[:39])


def test_a_row_and_its_duplicates_are_on_one_side_whatever_their_dataset(tmp_path: Path):
    texts = [f"t{n % 10}" for n in range(40)]
    chosen = held_out(tmp_path, texts, texts[:15], fraction=0.3, seed=3)
    sides = [
        {(text, place in held) for place, text in enumerate(of)}
        for of, held in zip((texts, texts[:15]), chosen, strict=True)
    ]
    assert len(sides[0] | sides[1]) == 10
    assert 0.3 * 55 <= sum(map(len, chosen)) < 55


def test_a_row_that_is_added_moves_hardly_any_other(tmp_path: Path):
    before = [f"t{n}" for n in range(100)]
    (old,) = held_out(tmp_path, before, fraction=0.1, seed=0)
    (new,) = held_out(tmp_path, ["new", *before], fraction=0.1, seed=0)
    assert len({place - 1 for place in new} ^ old) <= 2


@pytest.mark.parametrize("texts", [["a"], ["a"] * 9])
def test_rows_that_are_all_alike_cannot_be_parted(tmp_path: Path, texts: list[str]):
    with pytest.raises(DatasetEmpty, match=r"^tuning_parameters\.eval_fraction: .*leaves none"):
        held_out(tmp_path, texts, fraction=0.1, seed=0)


def numbers(first: int, count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {n}? ", "completion": f"It is {n}."} for n in range(first, first + count)]


def test_shares_and_a_held_out_part_are_trained_with(attempt: Attempt):
    few, many = attempt.dataset(numbers(0, 5), "few.jsonl"), attempt.dataset(numbers(100, 35), "many.jsonl")
    attempt.assign(
        datasets=[{"source": few, "weight": 1}, {"source": many, "weight": 1}],
        tuning_parameters={"eval_fraction": 0.25, "num_epochs": 1},
    )
    assert attempt.run() == 0, attempt.reports[-1]
    facts = attempt.provenance
    held = [source["held_out_rows"] for source in facts["datasets"]["sources"]]
    assert sum(held) == facts["datasets"]["splits"]["eval"]["examples"] == 10
    assert facts["losses"]["eval_after"] < facts["losses"]["eval_before"]
    assert "30 rows" in (attempt.output / "README.md").read_text()
    trained_few = 5 - held[0]
    (rank,) = facts["ranks"]
    assert rank["first_epoch"]["examples"] == 30
    assert sum(number < trained_few for number in rank["first_epoch"]["numbers"]) == 15


def test_a_dataset_with_a_share_must_have_something_to_train_on(attempt: Attempt):
    empty = attempt.dataset([{"prompt": "a", "completion": ""}], "empty.jsonl")
    rows = attempt.dataset(numbers(0, 8), "full.jsonl")
    attempt.assign(datasets=[{"source": rows, "weight": 3}, {"source": empty}])
    reason, message = failed_with(attempt)
    assert reason == "DATASET_EMPTY"
    assert message.startswith("datasets[1].source: ")


AUDITED = [
    *numbers(0, 6),
    {"prompt": "What is 0? ", "completion": "It is 0."},  # as row 1
    {"prompt": "What now? ", "completion": ""},
    {"prompt": "What is it? ", "completion": "It is long. " * 60},
]


@pytest.fixture
def audited(attempt: Attempt) -> dict[str, Any]:
    evaluated = attempt.dataset([*numbers(3, 1), *numbers(50, 3)], "eval.jsonl")
    attempt.assign(
        rows=AUDITED,
        datasets=[{"source": (attempt.directory / "rows.jsonl").as_uri()}, {"source": evaluated, "split": "eval"}],
        tuning_parameters={"max_sequence_length": 64, "max_steps": 1},
    )
    assert attempt.run() == 0, attempt.reports[-1]
    return json.loads((attempt.output / "audit.json").read_text())


def test_the_audit_names_what_was_left_out_cut_off_or_there_twice(audited: dict[str, Any], attempt: Attempt):
    where = f"datasets[0].source: row {{}} of {attempt.directory / 'rows.jsonl'}".format
    train = audited["splits"]["train"]
    assert (train["texts"], train["examples"]) == (9, 8)
    assert train["refused"] == {"texts": 1, "share": 0.111111, "rows": [where(8)]}
    assert train["truncated"]["rows"] == train["without_eos"]["rows"] == [where(9)]
    assert train["truncated"]["tokens_cut_off"] > 100
    assert audited["duplicates"]["first"] == [{"row": where(7), "same_as": where(1)}]
    assert audited["duplicates"]["eval_rows_in_train"] == 1
    assert [source["rows_read"] for source in audited["sources"]] == [9, 4]


def test_the_histogram_counts_every_example_once(audited: dict[str, Any]):
    for split in audited["splits"].values():
        bins = split["lengths"]["histogram"]
        assert sum(each["examples"] for each in bins) == split["examples"]
        assert bins[-1]["at_most"] >= split["lengths"]["max"] > bins[-1]["at_most"] // 2
        assert bins[0]["at_most"] >= split["lengths"]["min"]
        tokens = sum(each["at_most"] * each["examples"] for each in bins)
        assert split["tokens"] <= tokens < 2 * split["tokens"]


def test_the_rendered_example_shows_what_is_trained_on(audited: dict[str, Any]):
    rendered = audited["rendered"]
    assert [(each["trained"], each["text"]) for each in rendered["segments"]] == [
        (False, "What is 0? "),
        (True, "It is 0.<|endoftext|>"),
    ]
    assert sum(each["tokens"] for each in rendered["segments"]) == rendered["tokens"]
    assert rendered["segments"][1]["tokens"] == rendered["trained_tokens"]


def test_the_audit_is_told_before_training(audited: dict[str, Any], attempt: Attempt):
    phases = attempt.said("phase")
    told = [report["message"] for report in phases if "message" in report]
    assert len(told) == 1
    assert told[0].startswith(f"audit: 13 rows read; {audited['splits']['train']['examples']} examples to train on")
    assert "1 left out without a target, 1 cut off, 1 that do not end, 1 duplicates" in told[0]
    assert "1 of their rows in train too" in told[0]
    names = [report["phase"] for report in phases]
    assert names.index("TRAINING") > [("message" in report) for report in phases].index(True)
    assert "What is" not in told[0]  # rows are the user's: none of their text is in an event


def test_rows_of_which_none_teaches_anything_fail_in_words(attempt: Attempt):
    attempt.assign(rows=[{"prompt": "a", "completion": ""}] * 3)
    reason, message = failed_with(attempt)
    assert reason == "DATASET_EMPTY"
    assert "no row of split train has a token to train on" in message


def told_of(attempt: Attempt) -> dict[str, Any]:
    """The audit in the attempt's directory, which is there without any output."""
    assert not attempt.output.exists()
    return json.loads((attempt.directory / "audit.json").read_text())


def test_the_audit_of_a_training_that_fails_is_there_all_the_same(attempt: Attempt):
    attempt.assign(rows=AUDITED, tuning_parameters={"learning_rate": 1e30, "max_grad_norm": 0, "num_epochs": 20})
    assert failed_with(attempt)[0] == "LOSS_NOT_FINITE"
    found = told_of(attempt)
    assert (found["splits"]["train"]["texts"], found["duplicates"]["rows"]) == (9, 1)
    assert found["rendered"]["segments"][0]["text"] == "What is 0? "
    assert "failure" not in found


def test_the_published_audit_is_the_one_that_was_told(audited: dict[str, Any], attempt: Attempt):
    assert json.loads((attempt.directory / "audit.json").read_text()) == audited


def test_the_audit_of_rows_of_which_none_teaches_anything_tells_of_all_of_them(attempt: Attempt):
    attempt.assign(rows=[{"prompt": "a", "completion": ""}] * 2 + [{"prompt": "b", "completion": ""}])
    reason, message = failed_with(attempt)
    found = told_of(attempt)
    where = f"datasets[0].source: row {{}} of {attempt.directory / 'rows.jsonl'}".format
    assert found["failure"] == {"reason": reason, "message": message}
    assert reason == "DATASET_EMPTY"
    train = found["splits"]["train"]
    assert train["refused"] == {"texts": 3, "share": 1.0, "rows": [where(1), where(2), where(3)]}
    assert (train["examples"], train["lengths"], found["rendered"]) == (0, None, None)
    assert found["duplicates"]["rows"] == 1
    assert found["broken"] == {"count": 0, "rows": []}


def test_the_audit_of_broken_rows_says_what_is_wrong_with_each_of_every_dataset(attempt: Attempt):
    first = attempt.dataset(["{'text': 1}", {"text": "a"}, *[{"text": number} for number in range(12)]], "a.jsonl")
    second = attempt.dataset([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "b.jsonl")
    attempt.assign(datasets=[{"source": first}, {"source": attempt.dataset([{"text": "b"}])}, {"source": second}])
    reason, message = failed_with(attempt)
    found = told_of(attempt)
    assert reason == "DATASET_INVALID"
    assert message.endswith("(13 more broken rows: 3, 4, 5, 6, 7, 8, 9, 10, …)")
    assert found["failure"] == {"reason": reason, "message": message}
    rows = found["broken"]["rows"]
    assert found["broken"]["count"] == len(rows) == 14
    assert rows[0]["row"] == f"datasets[0].source: row 1 of {attempt.directory / 'a.jsonl'}"
    assert rows[0]["wrong"].startswith("is not JSON")
    assert rows[-1] == {
        "row": f"datasets[2].source: row 2 of {attempt.directory / 'b.jsonl'}",
        "wrong": "field completion is missing; the row has prompt",
    }


def test_all_rows_that_the_template_refuses_are_told_at_once(attempt: Attempt):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "b"}]
    refused = [{"role": "system", "content": "be"}, *talk]
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}<|endoftext|>{% endfor %}"
    )
    rows = [{"messages": each} for each in (talk, refused, talk, refused, refused)]
    attempt.assign(rows=rows, tuning_parameters={"chat_template": template})
    reason, message = failed_with(attempt)
    assert reason == "DATASET_INVALID"
    assert message.endswith("no system (2 more broken rows: 4, 5)")
    found = told_of(attempt)
    assert [each["row"].partition("row ")[2][0] for each in found["broken"]["rows"]] == ["2", "4", "5"]
    assert found["splits"]["train"]["examples"] == 2
