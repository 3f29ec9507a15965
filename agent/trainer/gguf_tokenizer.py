"""A model's tokenizer as a GGUF file has it, of either kind: byte-level BPE (`gpt2`) or SentencePiece's (`llama`).

Tokens, their kinds and scores are those that llama.cpp's own converter gives. It has scores from `tokenizer.model`
alone; here they come from the merges of `tokenizer.json`, which every model has that was trained.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gguf
from tokenizers import Tokenizer

from trainplane.backends import gguf_sentencepiece as sentencepiece
from trainplane.backends import gguf_support

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Kind = gguf.TokenType
_ADDED = {True: Kind.CONTROL, False: Kind.USER_DEFINED}


def add(writer: Any, model: Path, size: int) -> None:
    """Add a tokenizer's vocabulary, its special tokens and its chat template.

    Args:
        writer: a GGUFWriter, its file not begun.
        model: the model's directory, with a `tokenizer.json` that `gguf_support` finds nothing wrong with.
        size: the model's `vocab_size`: there are as many tokens.
    """
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    if sentencepiece.is_one(tokenizer):
        _add_sentencepiece(writer, tokenizer, model, size)
    else:
        _add_byte_level(writer, tokenizer, model, size)


def _add_byte_level(writer: Any, tokenizer: Mapping[str, Any], model: Path, size: int) -> None:
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds = [Kind.UNUSED] * size
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], kinds[number] = token, Kind.NORMAL
    for added in tokenizer["added_tokens"]:
        if added["id"] < size:
            tokens[added["id"]], kinds[added["id"]] = added["content"], _ADDED[added["special"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(gguf_support.splitting(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    # Special tokens, the chat template, and whether a text begins with one.
    gguf.SpecialVocab(model, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _add_sentencepiece(writer: Any, tokenizer: Mapping[str, Any], model: Path, size: int) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    tokens = [f"[PAD{number}]" for number in range(size)]
    scores, kinds = [sentencepiece.UNUSED_SCORE] * size, [Kind.UNUSED] * size
    for token, score in sentencepiece.scores(tokenizer).items():
        number = vocabulary[token]
        kind = Kind.BYTE if sentencepiece.BYTE.fullmatch(token) else Kind.NORMAL
        tokens[number], scores[number], kinds[number] = token, score, kind
    for added in tokenizer["added_tokens"]:
        number, token, special = added["id"], added["content"], added["special"]
        if number < size:
            # What is not special is looked for in the text as it came, whose spaces are spaces yet.
            tokens[number] = token if special else token.replace(sentencepiece.SPACE, " ")
            scores[number], kinds[number] = sentencepiece.ADDED_SCORE, _ADDED[special]
    special_tokens = gguf.SpecialVocab(model, load_merges=False, n_vocab=size)
    if tokenizer["model"].get("unk_token") in vocabulary:
        special_tokens.special_token_ids.setdefault("unk", vocabulary[tokenizer["model"]["unk_token"]])
    if "unk" in special_tokens.special_token_ids:
        kinds[special_tokens.special_token_ids["unk"]] = Kind.UNKNOWN
    # Left unsaid, llama.cpp begins a text of this kind with a token, whatever the model was trained on.
    special_tokens.add_special_token |= _frame(model, special_tokens.special_token_ids)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_add_space_prefix(sentencepiece.puts_space_before(tokenizer))
    special_tokens.add_to_gguf(writer, quiet=True)


def _frame(model: Path, special: Mapping[str, int]) -> dict[str, bool]:
    """Whether a text gets a token before and after it: asked of the tokenizer itself."""
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode("a").ids
    return {
        "bos": ids[:1] == [special.get("bos")],
        "eos": ids[-1:] == [special.get("eos")],
    }
