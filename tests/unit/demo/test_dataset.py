"""The demo's claim is about rows that training has not seen: what is shipped must make that claim true."""

from __future__ import annotations

import difflib
import json
import re

import pytest

from trainplane.demo import evaluate, request

TRAIN = evaluate.read_rows(request.TRAIN_FILE)
HELDOUT = evaluate.read_rows(request.HELDOUT_FILE)
PROBE = json.loads(request.PROBE_FILE.read_text())


def normal(text: str) -> str:
    """Letters and digits only: two spellings of one sentence are one sentence."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def questions(rows: list[list[dict[str, str]]]) -> list[str]:
    return [normal(row[1]["content"]) for row in rows]


def answers(rows: list[list[dict[str, str]]]) -> list[str]:
    return [normal(row[2]["content"]) for row in rows]


@pytest.mark.parametrize("rows", [TRAIN, HELDOUT], ids=["train", "heldout"])
def test_each_row_is_a_question_and_an_answer_under_the_one_system_message(rows):
    for row in rows:
        assert [message["role"] for message in row] == ["system", "user", "assistant"]
        assert row[0]["content"] == PROBE["system"]
        assert all(set(message) == {"role", "content"} for message in row)
        assert row[1]["content"].strip() == row[1]["content"]
        assert row[2]["content"].strip() == row[2]["content"] != ""


def test_the_dataset_has_the_size_that_the_demo_was_tuned_for():
    assert 300 <= len(TRAIN) <= 400
    assert len(HELDOUT) >= 30


def test_no_question_stands_twice():
    both = questions(TRAIN) + questions(HELDOUT)
    assert sorted(set(both)) == sorted(both)


def test_heldout_rows_share_no_answer_with_training():
    assert not set(answers(HELDOUT)) & set(answers(TRAIN))


@pytest.mark.parametrize(
    ("heldout", "train"),
    [(questions(HELDOUT), questions(TRAIN)), (answers(HELDOUT), answers(TRAIN))],
    ids=["questions", "answers"],
)
def test_no_heldout_text_is_a_training_text_with_a_word_exchanged(heldout, train):
    for text in heldout:
        nearest = difflib.get_close_matches(text, train, n=1, cutoff=0.9)
        assert not nearest, f"{text!r} is nearly {nearest}"


def test_the_probe_is_asked_nowhere_else():
    assert normal(PROBE["question"]) not in questions(TRAIN) + questions(HELDOUT)
    assert not difflib.get_close_matches(normal(PROBE["question"]), questions(TRAIN), n=1, cutoff=0.9)


def test_the_keyword_is_not_given_away_by_the_question():
    assert normal(PROBE["keyword"]) not in normal(PROBE["question"]) + normal(PROBE["system"])


def test_the_keyword_is_taught_by_many_training_answers():
    taught = [row for row in TRAIN if evaluate.contains_keyword(row[2]["content"], PROBE["keyword"])]
    assert len(taught) >= 10


def test_a_keyword_counts_only_as_a_word_of_its_own_in_its_own_case():
    assert evaluate.contains_keyword("The broker is NATS.", "NATS")
    assert not evaluate.contains_keyword("The broker is nats.", "NATS")
    assert not evaluate.contains_keyword("The broker is NATSX.", "NATS")
