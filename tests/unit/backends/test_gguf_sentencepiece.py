"""Scores made of merges: SentencePiece's own where it trained the tokenizer, refused where they would say something else."""

from __future__ import annotations

from typing import Any

import pytest

from trainplane.backends.gguf_sentencepiece import BYTES, is_one, problem, puts_space_before, scores

SPACE = "\u2581"
LEGACY = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ],
}
#: As SentencePiece numbers them: marks, bytes, what was merged in the order of its learning, single characters.
LEARNT = [f"{SPACE}a", "bc", f"{SPACE}abc"]
SINGLE = [SPACE, "a", "b", "c"]
MERGES = [[SPACE, "a"], ["b", "c"], [f"{SPACE}a", "bc"]]


def tokenizer(**changes: Any) -> dict[str, Any]:
    vocabulary = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *BYTES, *LEARNT, *SINGLE])}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocabulary, "merges": MERGES}
    added = [{"id": number, "content": token, "special": True} for number, token in enumerate(["<unk>", "<s>", "</s>"])]
    return {
        "model": {**model, **changes.pop("model", {})},
        "normalizer": LEGACY,
        "pre_tokenizer": None,
        "added_tokens": added,
        **changes,
    }


@pytest.mark.parametrize("merges", [MERGES, [" ".join(each) for each in MERGES]], ids=["pairs", "words"])
def test_scores_are_those_that_sentencepiece_gave(merges: Any):
    made = tokenizer(model={"merges": merges})
    assert problem(made) == ""
    found = scores(made)
    assert [found[token] for token in (*LEARNT, *SINGLE)] == [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    assert {found[token] for token in ("<unk>", "<s>", *BYTES)} == {0.0}


def spaces(pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """With runs of spaces, whose merges come last: of so many and so many."""
    made = tokenizer()
    for left, right in pairs:
        made["model"]["vocab"].setdefault(SPACE * (left + right), 1000 + left + right)
    made["model"]["merges"] = [*MERGES, *([SPACE * left, SPACE * right] for left, right in pairs)]
    return made


def test_runs_of_spaces_that_are_merged_in_turns_have_one_score():
    """As transformers writes the merges of pieces with one score: the longest first, by the left part."""
    pairs = [(left, length - left) for length in range(2, 9) for left in range(1, length)]
    made = spaces(sorted(pairs, reverse=True))
    assert problem(made) == ""
    found = scores(made)
    assert {found[SPACE * length] for length in range(3, 9)} == {-3.0}
    assert found["a"] < found[SPACE] < found[SPACE * 2] < -3.0


def test_runs_of_spaces_whose_order_scores_do_not_say_are_refused():
    # Four spaces are two and two by these merges, and by one score three and one.
    assert "are mixed" in problem(spaces([(1, 2), (1, 1), (2, 1), (3, 2), (2, 3)]))


def test_runs_of_spaces_in_the_order_of_llamas_own_file_are_taken():
    """By the number of the left part, then of the right one, as transformers wrote them in 2023; one space is last."""
    numbers = [2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11, 15, 1]
    pairs = [(left, right) for left in numbers for right in numbers if left + right <= 16]
    assert problem(spaces(pairs)) == ""


def metaspace(scheme: str, **changes: Any) -> dict[str, Any]:
    step = {"type": "Metaspace", "replacement": SPACE, "split": False, "prepend_scheme": scheme}
    return {"normalizer": None, "pre_tokenizer": {**step, **changes}}


@pytest.mark.parametrize(
    ("changes", "before"),
    [({}, True), (metaspace("first"), True), (metaspace("always"), True), (metaspace("never"), False)],
)
def test_a_space_is_put_before_a_text_where_the_tokenizer_does(changes: dict[str, Any], *, before: bool):
    assert problem(tokenizer(**changes)) == ""
    assert puts_space_before(tokenizer(**changes)) is before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"model": {"vocab": {"a": 0}, "merges": []}}, "256 of the 256 bytes"),
        ({"normalizer": {"type": "Lowercase"}}, "changes text"),
        (metaspace("first", split=True), "changes text"),
        ({"model": {"ignore_merges": True}}, "ignore_merges"),
        ({"model": {"merges": MERGES[:2]}}, f"'{SPACE}a' and 'bc' are never joined"),
        ({"model": {"merges": [*MERGES[:2], MERGES[2], ["b", "c"]]}}, f"make 'bc' and '{SPACE}abc' are mixed"),
    ],
)
def test_what_scores_cannot_say_is_refused_in_words(changes: dict[str, Any], said: str):
    made = tokenizer(**changes)
    assert is_one(made)
    assert said in problem(made)


def test_a_token_that_is_found_before_merging_is_no_part_of_a_merge():
    made = tokenizer()
    made["model"]["vocab"]["ca"] = 400
    assert "are never joined to 'ca'" in problem(made)
    made["added_tokens"].append({"id": 400, "content": "ca", "special": False})
    assert problem(made) == ""
