"""From the datasets' files to examples: token ids, and which of them are trained on. Nothing heavy is imported.

A row is of the kind that `columns` maps fields of, else `prompt` + `completion`, else `instruction` (+ `input`) +
`output`, else `text`; what comes before the completion is not trained on. Broken rows end the job: what is left would
not be what the user meant.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from trainplane_bare.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from trainplane_bare.plan import Source
    from trainplane_bare.reports import Reports

_ALPACA = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)
_PAIRED = ", paired with an input that provides further context"


_KINDS = (("messages",), ("prompt", "completion"), ("instruction", "output", "input"), ("text",))
"""The kinds of rows by their fields, of which `input` may be absent; the order is the precedence, unless `columns` maps
fields of one of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text of two parts, of which the second is trained on."""

    where: str
    before: str
    trained: str


@dataclass(frozen=True, slots=True)
class Example:
    """`targets[i]` says whether token i is to be predicted."""

    ids: list[int]
    targets: list[bool]


@dataclass(frozen=True, slots=True)
class Dataset:
    """One source, read whole."""

    source: Source
    rows: list[Row]
    sha256: str


def read(source: Source) -> Dataset:
    """Every row of a source.

    Raises:
        Failure: DATASET_NOT_FOUND, STORAGE_DENIED, DATASET_INVALID or DATASET_EMPTY.
    """
    if not any(source.columns.keys() <= {*names} for names in _KINDS):
        words = f"{', '.join(source.columns)} are fields of different kinds of rows, and a dataset has one"
        raise Failure("CONFIG_INVALID", f"{source.field.partition('.')[0]}.columns: {words}")
    rows: list[Row] = []
    wrong: list[str] = []
    unseen = {source.columns[name] for name in ("input",) if name in source.columns}
    digest = sha256()
    for path in _files(source):
        content = _content(source, path)
        digest.update(content)
        for number, value in _values(source, path, content):
            where = f"{source.field}: row {number} of {path.name if path != source.path else source.called}"
            unseen -= value.keys() if isinstance(value, dict) else set()
            found = _row(where, value, source.columns)
            if isinstance(found, Row):
                rows.append(found)
            else:
                wrong.append(f"{where} {found}")
    if wrong:
        more = f"; {len(wrong)} rows are broken" if len(wrong) > 1 else ""
        raise Failure("DATASET_INVALID", f"{wrong[0]}{more}")
    if not rows:
        raise Failure("DATASET_EMPTY", f"{source.field}: {source.called} has no rows")
    if unseen:
        at = f"{source.field.partition('.')[0]}.columns.input"
        raise Failure("DATASET_INVALID", f"{at}: no row of {source.called} has a field {unseen.pop()}")
    return Dataset(source, rows, digest.hexdigest())


def tokenize(
    datasets: Sequence[Dataset], tokenizer: Tokenizer, *, end: int | None, longest: int, reports: Reports
) -> list[Example]:
    """The examples of all rows, in order; what is cut or left out is told.

    Args:
        datasets: as `read` gave them.
        tokenizer: the model's.
        end: the token that ends a text, if the model has one.
        longest: tokens; what is longer loses its end.
        reports: gets the warnings.

    Raises:
        Failure: DATASET_EMPTY: nothing is left to train on.
    """
    rows = [row for dataset in datasets for row in dataset.rows]
    examples: list[Example] = []
    cut: list[str] = []
    useless: list[str] = []
    encodings = tokenizer.encode_batch([row.before + row.trained for row in rows])
    for row, encoding in zip(rows, encodings, strict=True):
        ids = list(encoding.ids)
        # A token that reaches into the trained part counts as its own; special tokens span nothing.
        targets = [stop > len(row.before) for _, stop in encoding.offsets]
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
            targets.append(True)
        if len(ids) > longest:
            cut.append(row.where)
            ids, targets = ids[:longest], targets[:longest]
        targets[:1] = [False]  # nothing comes before the first
        if any(targets):
            examples.append(Example(ids, targets))
        else:
            useless.append(row.where)
    for reason, places, what in (
        ("ROWS_TRUNCATED", cut, f"were cut to {longest} tokens"),
        ("ROWS_WITHOUT_TARGET", useless, "have no token to be trained on, and are left out"),
    ):
        if places:
            reports.warning(reason, f"{len(places)} rows {what}; the first is {places[0]}")
    if not examples:
        raise Failure("DATASET_EMPTY", "datasets: no row has a token to be trained on")
    return examples


def _files(source: Source) -> list[Path]:
    return sorted(source.path.iterdir()) if source.path.is_dir() else [source.path]


def _content(source: Source, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Failure("DATASET_NOT_FOUND", f"{source.field}: there is no file {source.called} on this node") from error
    except PermissionError as error:
        raise Failure("STORAGE_DENIED", f"{source.field}: {source.called} may not be read here") from error


def _values(source: Source, path: Path, content: bytes) -> Iterator[tuple[int, Any]]:
    """The rows with their numbers; what is no JSON is an exception in its place."""
    if (source.format or path.suffix.lower().removeprefix(".")) == "json":
        whole = _json(content)
        values = whole.get("data") if isinstance(whole, dict) else whole
        if not isinstance(values, list):
            raise Failure("DATASET_INVALID", f'{source.field}: {source.called} must be an array, or {{"data": [...]}}')
        yield from enumerate(values, start=1)
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, _json(line)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return error


def _row(where: str, value: Any, columns: dict[str, str]) -> Row | str:
    """The row, or what is wrong with it in words that go on after its place."""
    if not isinstance(value, dict):
        return f"is not JSON: {value}" if isinstance(value, Exception) else "is not an object"
    if missing := [name for name in columns if columns[name] not in value and name != "input"]:
        found = ", ".join(sorted(value)) or "none"
        return f"has no field {columns[missing[0]]} ({where.partition('.')[0]}.columns.{missing[0]}); it has {found}"
    kinds = [names for names in _KINDS if columns.keys() <= {*names}]
    names = {name for kind in kinds for name in kind}
    given = {name: value[columns.get(name, name)] for name in names if value.get(columns.get(name, name)) is not None}
    if "messages" in given:
        return "is a conversation, which backend bare does not train; use backend peft"
    for kind in kinds:
        if all(name in given for name in kind if name != "input"):
            texts = {name: given[name] for name in kind if name in given}
            wrong = [name for name, text in texts.items() if not isinstance(text, str)]
            if wrong:
                return f"has a field {columns.get(wrong[0], wrong[0])} that is no text"
            return Row(where, *_parts(texts))
    return "has neither prompt and completion, nor instruction and output, nor text"


def _parts(texts: dict[str, str]) -> tuple[str, str]:
    if "text" in texts:
        return "", texts["text"]
    if "prompt" in texts:
        return texts["prompt"], texts["completion"]
    given = texts.get("input", "")
    paired, shown = (_PAIRED, f"### Input:\n{given}\n\n") if given else ("", "")
    return _ALPACA.format(paired=paired, instruction=texts["instruction"], input=shown), texts["output"]
