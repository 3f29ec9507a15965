"""From rendered text to token ids with a mask: a token is trained on if any of its characters lies in a trained span.

The whole text is tokenized at once and the spans are found by offsets. Tokenizing prompt and completion apart
would split tokens that the model sees whole, and would give some tokenizers' completions a space that nobody wrote.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agent.trainer.pulse import PULSE
from trainplane.backends.truncation import DROP, ERROR, RIGHT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from agent.trainer.data.template import Rendered

LISTED = 100
"""Rows that are named for each thing that happened; all are counted."""

CHUNK = 512
CHUNK_CHARACTERS = 1 << 18
"""Texts a call, and characters if there are more than one: enough for the tokenizer's threads, and a bound on what
stands in memory, where a token's offsets take much more than its text."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `trained[i]` says whether token i is to be predicted; the first token never is."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        """How many tokens this example teaches."""
        return int(self.trained.sum())


@dataclass(slots=True)
class TokenCounts:
    """What happened to the texts of one split on their way to examples."""

    texts: int = 0
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    """Examples that lost their end, or their beginning."""
    truncated_tokens: int = 0
    """Tokens that were cut off."""
    dropped: int = 0
    """Texts left out, because they are too long."""
    untrainable: int = 0
    """Texts left out, because no trained token was left of them."""
    endless: int = 0
    """Examples whose last trained token is neither the tokenizer's end of text nor what the template ends a turn with:
    they do not teach a model to stop."""
    truncated_at: list[str] = field(default_factory=list)
    dropped_at: list[str] = field(default_factory=list)
    untrainable_at: list[str] = field(default_factory=list)
    endless_at: list[str] = field(default_factory=list)
    """Where the first of them stand."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Examples by their length: as many entries as there are lengths."""
    highest: tuple[int, str] = (-1, "")
    """The highest token, and where its text stands."""
    shown: tuple[str, Example] | None = None
    """An example to look at, and where it stands: the first with trained and untrained tokens, else the first."""

    @property
    def first_truncated(self) -> str:
        """Where the first text stands that was cut off."""
        return self.truncated_at[0] if self.truncated_at else ""

    @property
    def first_dropped(self) -> str:
        """Where the first text stands that is too long and was left out."""
        return self.dropped_at[0] if self.dropped_at else ""

    @property
    def first_untrainable(self) -> str:
        """Where the first text stands that was left out for want of a trained token."""
        return self.untrainable_at[0] if self.untrainable_at else ""


def tokenize(
    texts: Iterable[Rendered], tokenizer: Any, *, max_length: int, counts: TokenCounts, truncation: str = RIGHT
) -> Iterator[Example]:
    """Examples in the order of the texts, without those that teach nothing.

    Args:
        texts: what the template wrote.
        tokenizer: a fast transformers tokenizer (it knows offsets).
        max_length: tokens of an example at most.
        counts: is counted up as the examples are taken.
        truncation: what becomes of longer ones (`trainplane/backends/truncation.py`); ERROR: they are counted as
            dropped, and it is for the caller to fail.
    """
    limit = _Limit(max_length, truncation, getattr(tokenizer, "bos_token_id", None))
    remaining = iter(texts)
    while chunk := list(_chunk(remaining)):
        PULSE.beat()
        for templated in (False, True):
            # Special tokens are the template's business where there is one; one call cannot mix both.
            alike = [text for text in chunk if text.templated is templated]
            chunk_of_examples = _tokenize_alike(alike, tokenizer, special_tokens=not templated)
            for text, example in zip(alike, chunk_of_examples, strict=True):
                counts.texts += 1
                if (kept := _fitted(text, example, limit, counts)) is not None:
                    _look_at(text, kept, tokenizer, counts)
                    yield kept


def _chunk(texts: Iterator[Rendered]) -> Iterator[Rendered]:
    characters = 0
    for text in islice(texts, CHUNK):
        yield text
        characters += len(text.text)
        if characters >= CHUNK_CHARACTERS:
            return


def _tokenize_alike(texts: Sequence[Rendered], tokenizer: Any, *, special_tokens: bool) -> Iterator[Example]:
    if not texts:
        return
    encoded = tokenizer(
        [text.text for text in texts],
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # lengths are our business
    )
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        yield _masked(text, list(ids), offsets, tokenizer.eos_token_id)


def _masked(text: Rendered, ids: list[int], offsets: Sequence[tuple[int, int]], eos: int | None) -> Example:
    trained = mask(offsets, text.spans)
    if text.ends_turn and eos is not None and text.spans[-1][1] > text.spans[-1][0]:
        if not ids or ids[-1] != eos:
            ids.append(eos)
            trained.append(True)
        else:
            trained[-1] = True
    if trained:
        trained[0] = False
    return Example(np.array(ids, dtype=np.int32), np.array(trained, dtype=np.bool_))


def mask(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens overlap a span.

    Tokens that a tokenizer adds of its own have the offsets (0, 0) and overlap nothing. Byte-level tokenizers
    that trim offsets give a token of spaces an empty one at its end: it is taken to begin where the token
    before it ended.
    """
    trained = []
    span = 0
    previous_end = 0
    for start, end in offsets:
        begin = previous_end if start == end else start
        while span < len(spans) and spans[span][1] <= begin:
            span += 1
        trained.append(span < len(spans) and begin < spans[span][1] and end > spans[span][0] and end > begin)
        previous_end = max(previous_end, end)
    return trained


def _look_at(text: Rendered, example: Example, tokenizer: Any, counts: TokenCounts) -> None:
    """Note what the audit tells of an example."""
    last = int(example.ids[np.flatnonzero(example.trained)[-1]])
    ended = last == tokenizer.eos_token_id
    if not ended and not (text.end_of_turn and last == tokenizer.convert_tokens_to_ids(text.end_of_turn)):
        counts.endless += 1
        _list(text.where, counts.endless_at)
    if (highest := int(example.ids.max())) > counts.highest[0]:
        counts.highest = highest, text.where
    masked = not example.trained[1:].all()
    if counts.shown is None or (masked and counts.shown[1].trained[1:].all()):
        counts.shown = text.where, example


def _list(where: str, places: list[str]) -> None:
    if len(places) < LISTED:
        places.append(where)


class _Limit(NamedTuple):
    tokens: int
    truncation: str
    beginning: int | None
    """The token that texts begin with, if the tokenizer has one."""

    def cut(self, example: Example) -> Example:
        """As much of a longer example as it may have."""
        if self.truncation == RIGHT:
            return Example(example.ids[: self.tokens].copy(), example.trained[: self.tokens].copy())
        # A beginning stays, which is not the text's: the model was trained with it.
        head = int(example.ids[0] == self.beginning)
        rest = len(example) - self.tokens + head
        ids = np.concatenate([example.ids[:head], example.ids[rest:]])
        trained = np.concatenate([example.trained[:head], example.trained[rest:]])
        trained[0] = False
        return Example(ids, trained)


def _fitted(text: Rendered, example: Example, limit: _Limit, counts: TokenCounts) -> Example | None:
    """The example cut to length and counted; None if it teaches nothing, or is left out."""
    if len(example) > limit.tokens:
        if limit.truncation in {DROP, ERROR}:
            counts.dropped += 1
            _list(text.where, counts.dropped_at)
            return None
        counts.truncated += 1
        counts.truncated_tokens += len(example) - limit.tokens
        _list(text.where, counts.truncated_at)
        example = limit.cut(example)
    if not example.trained_tokens:
        counts.untrainable += 1
        _list(text.where, counts.untrainable_at)
        return None
    counts.examples += 1
    counts.lengths[len(example)] += 1
    counts.tokens += len(example)
    counts.trained_tokens += example.trained_tokens
    return example
