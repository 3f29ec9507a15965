"""`python -m agent.trainer.sample`: what the trainer's reader makes of datasets' beginnings. Torch is not imported.

From stdin: `{"spec": …, "tokenizer": PATH or "", "datasets": [{"index", "path", "size_bytes"}]}`. To stdout, by index:
`{"outcome", "reason", "message", "facts"}`, where `facts` are bytes and rows of the whole dataset (reckoned from the
sample where that is not all of it), tokens of a row, of the longest one, and the share of them that is trained.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.trainer.assignment import DatasetSource
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.formats import format_of
from agent.trainer.data.rows import Completion, Conversation, Instruction, Text
from agent.trainer.failures import TrainingFailure
from trainplane.backends import truncation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.trainer.data.rows import Content

_BYTES_A_TOKEN = 4.0
"""Without the model's tokenizer: what English takes with a vocabulary of tens of thousands."""
_AROUND_A_TURN = 4
"""Tokens that a chat template puts around a message, about."""
_MOST_ROWS = 2_000
_NEEDS_ALL = {"json", "parquet"}


def main() -> int:
    """Read, and answer."""
    asked = json.load(sys.stdin)
    count = _counter(asked["tokenizer"])
    answer = {each["index"]: _look(asked["spec"], each, count) for each in asked["datasets"]}
    json.dump(answer, sys.stdout)
    return 0


def _look(spec: Mapping[str, Any], asked: Mapping[str, Any], count: Callable[[Sequence[str]], list[int]]) -> Any:
    index, path, size = int(asked["index"]), Path(asked["path"]), int(asked["size_bytes"])
    wanted = spec["datasets"][index]
    form = wanted.get("format") or format_of(path.name)
    whole = path.stat().st_size >= size
    if not whole and form in _NEEDS_ALL:
        words = f"datasets[{index}].source: a {form} file of {size / 2**20:.0f} MiB is not read before the job runs"
        return {"outcome": "PASSED", "reason": "", "message": words}
    if not whole:
        _cut(path, form)
    source = DatasetSource(
        index=index,
        source=str(wanted["source"]),
        format=form,
        columns=dict(wanted.get("columns") or {}),
        fetched=str(path),
    )
    try:
        found = read_dataset(source, whole=whole).rows
        rows = [row.content for row in islice(found, _MOST_ROWS)]
    except TrainingFailure as failure:
        return {"outcome": "FAILED", "reason": failure.reason, "message": str(failure)}
    counted = _Counted.of(rows, count)
    share = 1.0
    tuning = spec.get("tuning_parameters") or {}
    if tuning.get("truncation") == truncation.DROP:
        limit = int(tuning["max_sequence_length"])
        kept = counted.within(limit)
        if not kept.lengths:
            words = (
                f"datasets[{index}].source: all of the first {len(rows)} rows are longer than {limit} tokens, and "
                "tuning_parameters.truncation: drop would leave them out; raise max_sequence_length"
            )
            return {"outcome": "FAILED", "reason": "DATASET_INVALID", "message": words}
        share, counted = len(kept.lengths) / len(rows), kept
    whole_rows = len(found) if whole else len(found) * size / max(1, path.stat().st_size)
    facts = {"bytes": size, "rows": max(1, round(whole_rows * share)), **counted.facts()}
    return {"outcome": "PASSED", "reason": "", "message": "", "facts": facts}


def _cut(path: Path, form: str) -> None:
    """Leave out the record that the sample ends within."""
    content = path.read_bytes()
    end = content.rfind(b"\n\n" if form == "text" else b"\n")
    path.write_bytes(content[: end + 1] if end >= 0 else content)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Tokens of some rows, and how many of each are trained on."""

    lengths: list[int]
    trained: list[int]

    @classmethod
    def of(cls, rows: Sequence[Content], count: Callable[[Sequence[str]], list[int]]) -> _Counted:
        prompts, answers = zip(*map(_parts, rows), strict=True)
        untrained, trained = count(prompts), count(answers)
        turns = [_AROUND_A_TURN * len(row.messages) if isinstance(row, Conversation) else 1 for row in rows]
        return cls([sum(parts) for parts in zip(untrained, trained, turns, strict=True)], trained)

    def within(self, limit: int) -> _Counted:
        """Those of no more tokens than that."""
        kept = [number for number, length in enumerate(self.lengths) if length <= limit]
        return _Counted([self.lengths[number] for number in kept], [self.trained[number] for number in kept])

    def facts(self) -> dict[str, float]:
        total = sum(self.lengths)
        return {
            "tokens": total / len(self.lengths),
            "longest": max(self.lengths),
            "share": min(1.0, (sum(self.trained) + len(self.trained)) / total),
        }


def _parts(content: Content) -> tuple[str, str]:
    """What is only read, and what is trained on."""
    if isinstance(content, Text):
        return "", content.text
    if isinstance(content, Completion):
        return content.prompt, content.completion
    if isinstance(content, Instruction):
        return f"{content.instruction}\n{content.input}", content.output
    said = [(_said(each), each["role"] == "assistant") for each in content.messages]
    read = [json.dumps(tool) for tool in content.tools] + [text for text, ours in said if not ours]
    return "\n".join(read), "\n".join(text for text, ours in said if ours)


def _said(message: Mapping[str, Any]) -> str:
    return (message.get("content") or "") + "".join(json.dumps(call) for call in message.get("tool_calls") or ())


def _counter(tokenizer: str) -> Callable[[Sequence[str]], list[int]]:
    """Counts tokens: by the model's tokenizer, or else by bytes."""

    def by_bytes(texts: Sequence[str]) -> list[int]:
        return [round(len(text.encode("utf-8", "surrogatepass")) / _BYTES_A_TOKEN) for text in texts]

    if not tokenizer:
        return by_bytes
    with _Refusing():
        from tokenizers import Tokenizer

        known = Tokenizer.from_file(tokenizer)
        return lambda texts: [len(each.ids) for each in known.encode_batch(list(texts), add_special_tokens=False)]
    return by_bytes


class _Refusing:
    """Inside it, a tokenizer that cannot be read is none: tokenizers' Rust raises the class `Exception` itself."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: object) -> bool:
        return kind is Exception or kind is ImportError


if __name__ == "__main__":
    sys.exit(main())
