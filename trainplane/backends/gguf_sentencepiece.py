"""Tokenizers as SentencePiece trains them for Llama and Mistral (BPE whose last resort are bytes), in GGUF's terms.

`tokenizer.json` has merges, in their order; llama.cpp has a score for each token, and joins whatever two neighbours
make the token of the highest one. Scores are made of the merges here, in the order of SentencePiece's own where it
trained the tokenizer. Whether they say the same as the merges can be told, and a tokenizer of which they do not is
refused. Runs of one character, Llama's spaces, have one score among them there, which shows as merges that are mixed.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
UNUSED_SCORE = -10000.0
ADDED_SCORE = -1000.0
_LONGEST_RUN = 64

_LEGACY = (
    {"type": "Prepend", "prepend": SPACE},
    {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
)
_Merge = tuple[str, str]


def is_one(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a `tokenizer.json` is of this kind, be it one that can be written or not."""
    model = tokenizer.get("model") or {}
    return model.get("type") == "Unigram" or (model.get("type") == "BPE" and bool(model.get("byte_fallback")))


def problem(tokenizer: Mapping[str, Any]) -> str:
    """Why a tokenizer of this kind cannot be written; empty: it can."""
    model = tokenizer["model"]
    if model["type"] == "Unigram":
        return "a tokenizer of SentencePiece's kind is written as GGUF if it is BPE, and this model's is Unigram"
    vocabulary = model.get("vocab") or {}
    missing = [token for token in BYTES if token not in vocabulary]
    if missing:
        return f"its tokenizer has no tokens for {len(missing)} of the 256 bytes, which GGUF wants ({missing[0]})"
    if _leading_space(tokenizer) is None:
        return (
            "its tokenizer changes text before its merges in a way that GGUF has no words for; "
            "a space may be put before it, and spaces be written as \u2581"
        )
    if model.get("ignore_merges") or model.get("dropout"):
        return "its tokenizer does not merge as llama.cpp does (ignore_merges or dropout in tokenizer.json)"
    different = _differs(tokenizer)
    if different:
        return (
            "GGUF joins any two tokens that make a third, the one of the best score first, and this tokenizer's merges "
            f"do not: {different}"
        )
    return ""


def puts_space_before(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text is tokenized as if a space stood before it."""
    return bool(_leading_space(tokenizer))


def scores(tokenizer: Mapping[str, Any]) -> dict[str, float]:
    """A score for every token of the model's vocabulary, the highest for what is merged first.

    Args:
        tokenizer: one that `problem` finds nothing wrong with.
    """
    vocabulary: Mapping[str, int] = tokenizer["model"]["vocab"]
    added = {each["content"] for each in tokenizer.get("added_tokens") or ()}
    ranked = {token: group[0] for group in _groups(_merges(tokenizer)) for token in group}
    plain = [token for token in vocabulary if token not in added and not BYTE.fullmatch(token)]
    # Single characters come last, as SentencePiece numbers them: nothing is merged into one, so it changes nothing.
    rest = sorted((token for token in plain if token not in ranked), key=vocabulary.__getitem__)
    numbers = {token: number for number, token in enumerate([*ranked, *rest])}
    found = dict.fromkeys(vocabulary, 0.0)
    found |= {token: -float(numbers[ranked.get(token, token)]) for token in numbers if token in found}
    return found


def _leading_space(tokenizer: Mapping[str, Any]) -> bool | None:
    """Whether a space is put before a text; None: something else is done to it."""
    normalizer, splitting = tokenizer.get("normalizer"), tokenizer.get("pre_tokenizer")
    steps = [] if normalizer is None else normalizer.get("normalizers", [normalizer])
    if splitting is None:
        if steps == list(_LEGACY):
            return True
        return False if steps == list(_LEGACY[1:]) else None
    match splitting:
        case {"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": scheme} if not steps:
            return {"first": True, "always": True, "never": False}.get(scheme)
    return None


def _merges(tokenizer: Mapping[str, Any]) -> list[_Merge]:
    """In their order; versions of the library write them as one word or two."""
    told: Sequence[Any] = tokenizer["model"].get("merges") or ()
    pairs = (each.split(" ", 1) if isinstance(each, str) else each for each in told)
    return [(left, right) for left, right in pairs]


def _differs(tokenizer: Mapping[str, Any]) -> str:
    """Where merges and scores would say something else, in words; empty: nowhere."""
    vocabulary: Mapping[str, int] = tokenizer["model"]["vocab"]
    # Whole before anything is merged, so no part of a merge.
    added = {each["content"] for each in tokenizer.get("added_tokens") or ()}
    merges = [each for each in _merges(tokenizer) if not added.intersection((*each, "".join(each)))]
    groups = _groups(merges)
    numbers = {token: number for number, group in enumerate(groups) for token in group}
    for group in groups:
        if len(group) > 1 and not (all(len(set(token)) == 1 for token in group) and _alike(group, merges, numbers)):
            return f"those that make {group[0]!r} and {group[1]!r} are mixed"
    known = set(merges)
    for token in vocabulary:
        if token in added or BYTE.fullmatch(token):
            continue
        for left, right in _splits(token, vocabulary):
            if (left, right) not in known and not added.intersection((left, right)):
                return f"{left!r} and {right!r} are never joined to {token!r}"
    return ""


def _groups(merges: Sequence[_Merge]) -> list[list[str]]:
    """What is made, in its order; together what is made in turns."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, (left, right) in enumerate(merges):
        first.setdefault(left + right, number)
        last[left + right] = number
    groups: list[list[str]] = []
    end = -1
    for token, start in first.items():
        if start > end:
            groups.append([])
        groups[-1].append(token)
        end = max(end, last[token])
    return groups


def _alike(group: Sequence[str], merges: Sequence[_Merge], numbers: Mapping[str, int]) -> bool:
    """Whether runs of one character become the same tokens by the order of the merges and by that of the groups."""
    for character in {token[0] for token in group}:
        ranks = {pair: number for number, pair in enumerate(merges) if set("".join(pair)) == {character}}
        scored = {pair: numbers["".join(pair)] for pair in ranks}
        # Of more than the longest token even SentencePiece and Llama's own merges make different ones (ADR 0040).
        longest = max(len(left + right) for left, right in ranks)
        for length in range(2, min(longest, _LONGEST_RUN) + 1):
            if _merged(character * length, ranks) != _merged(character * length, scored):
                return False
    return True


def _merged(text: str, ranks: Mapping[_Merge, int]) -> list[str]:
    """The tokens of a text: again and again the pair of the lowest rank, of several the leftmost, is joined."""
    tokens = list(text)
    while True:
        pairs = [(ranks[pair], place) for place, pair in enumerate(pairwise(tokens)) if pair in ranks]
        if not pairs:
            return tokens
        _, place = min(pairs)
        tokens[place : place + 2] = [tokens[place] + tokens[place + 1]]


def _splits(token: str, vocabulary: Mapping[str, int]) -> Iterator[_Merge]:
    for place in range(1, len(token)):
        left, right = token[:place], token[place:]
        if left in vocabulary and right in vocabulary:
            yield left, right
