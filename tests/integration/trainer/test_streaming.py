"""Data of any size: what is read, compared and trained on lies on the disk, and is the same as if it were in memory."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from array import array
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.trainer.assignment import DatasetSource
from agent.trainer.audit import percentile
from agent.trainer.corpus import Corpus
from agent.trainer.data.dataset import read_dataset
from agent.trainer.data.duplicates import find_duplicates
from agent.trainer.data.examples import ExampleLengths, Examples, ExampleWriter, longest
from agent.trainer.data.json_items import NoArrayError, NotJsonError, items
from agent.trainer.data.order import Portion, epoch_order
from agent.trainer.data.row_index import RowIndex
from agent.trainer.data.splitting import hold_out
from agent.trainer.data.tokens import Example
from agent.trainer.failures import DatasetInvalid
from tests.integration.trainer.attempts import QUESTIONS, failed_with
from tests.integration.trainer.process import ROOT
from tests.integration.trainer.warm import CONTEXT, PRELOADED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.trainer.attempts import Attempt

BOUND_MIB = 24
ROWS = 24_000
LEFT_ALONE = "x" * 2_800
"""A field that training does not know: it makes the file large, and takes no time to tokenize."""


def test_a_corpus_of_several_times_the_memory_goes_through_it(tmp_path: Path, tiny_model: Path):
    file = tmp_path / "large.jsonl"
    with file.open("w") as rows:
        for number in range(ROWS):
            said = {"text": f"The number {number % (ROWS - 100)} is here.", "origin": LEFT_ALONE}
            rows.write(json.dumps(said) + "\n")
    assert file.stat().st_size > 2.5 * BOUND_MIB * 2**20
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.trainer.bounded", str(tiny_model), str(tmp_path), str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["growth_mib"] < BOUND_MIB
    assert measured["examples"] > 0.85 * ROWS


# JSON, item by item

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.lists(VALUES, max_size=8),
    st.integers(1, 9),
    st.sampled_from([None, 0, 3]),
    st.sampled_from(["", "data"]),
    st.sampled_from(["", "\n "]),
)
def test_items_of_an_array_are_what_the_whole_has(
    values: list[Any], chunk: int, indent: int | None, around: str, after: str
):
    whole = {"version": [1, {"a": "]"}], "data": values, "after": 3} if around else values
    text = json.dumps(whole, indent=indent, ensure_ascii=False) + after
    assert list(items(io.StringIO(text), chunk)) == values


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 9), st.data())
@settings(max_examples=300)
def test_what_is_wrong_with_json_is_told_as_by_the_parser_of_the_whole(values: list[Any], chunk: int, data: Any):
    text = json.dumps(values, indent=data.draw(st.sampled_from([None, 1])))
    place = data.draw(st.integers(0, len(text) - 1))
    broken = text[:place] + data.draw(st.sampled_from(["", "]", ",", '"', "\n", "nul", "\\", "}"])) + text[place + 1 :]
    try:
        expected: Any = json.loads(broken)
    except json.JSONDecodeError as error:
        expected = str(error)
    if isinstance(expected, list):
        assert list(items(io.StringIO(broken), chunk)) == expected
        return
    with pytest.raises(NotJsonError if isinstance(expected, str) else NoArrayError) as caught:
        list(items(io.StringIO(broken), chunk))
    assert not isinstance(expected, str) or str(caught.value) == expected


# Examples on the disk


def made(seed: int, count: int) -> list[Example]:
    numbers = np.random.default_rng(seed)
    sizes = numbers.integers(1, 40, count)
    return [
        Example(numbers.integers(0, 2**31 - 1, size, dtype=np.int32), numbers.integers(0, 2, size).astype(np.bool_))
        for size in sizes
    ]


def written(directory: Path, examples: Sequence[Example]) -> Examples:
    writer = ExampleWriter(directory, "train")
    for example in examples:
        writer.append(example)
    return writer.finish()


def same(left: Sequence[Example], right: Sequence[Example]) -> bool:
    return len(left) == len(right) and all(
        a.ids.dtype == b.ids.dtype
        and a.trained.dtype == b.trained.dtype
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.trained, b.trained)
        for a, b in zip(left, right, strict=True)
    )


def test_examples_on_the_disk_are_those_that_were_written(tmp_path: Path):
    examples = made(1, 300)
    found = written(tmp_path, examples)
    (tmp_path / "train.tokens").unlink()
    (tmp_path / "train.ends").unlink()
    assert same(list(found), examples)
    assert same([found[number] for number in range(300)], examples)
    assert same([found[-1], *found[3:9:2]], [examples[-1], *examples[3:9:2]])
    assert [ExampleLengths(found)[number] for number in range(300)] == [len(example) for example in examples]
    assert same(longest(found, 5), longest(examples, 5))
    with pytest.raises(IndexError):
        found[300]


def test_a_file_of_examples_that_was_cut_off_is_an_error_in_words(tmp_path: Path):
    found = written(tmp_path, made(1, 20))
    os.truncate(tmp_path / "train.tokens", 40)
    with pytest.raises(OSError, match="was cut off"):
        list(found)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.sampled_from([50, 90, 99]))
def test_percentiles_of_counts_are_those_of_the_list(lengths: list[int], percent: int):
    counted = sorted(Counter(lengths).items())
    values, counts = np.array(counted, dtype=np.int64).T
    assert percentile(values, counts, percent) == np.percentile(lengths, percent)


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_an_order_of_four_bytes_an_example_is_the_order_it_always_was(count: int, seed: int, epoch: int):
    whole = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(whole)
    order = epoch_order([Portion(0, count)], seed=seed, epoch=epoch)
    assert isinstance(order, array)
    assert order.itemsize == 4
    assert order.tolist() == whole


# Rows that say the same


@pytest.mark.parametrize("part_rows", [1, 7, 1000])
def test_duplicates_found_part_by_part_are_those_of_all_rows(tmp_path: Path, part_rows: int):
    draw, index = random.Random(4), RowIndex(tmp_path)
    texts = [[f"t{draw.randrange(60)}" for _ in range(rows)] for rows in (80, 30, 25)]
    datasets = []
    for number, rows in enumerate(texts):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        source = DatasetSource(number, file.as_uri(), split="eval" if number == 1 else "train")
        datasets.append(read_dataset(source, index, seed=2))
    last = hold_out([datasets[0], datasets[2]], fraction=0.2)
    corpus = Corpus(datasets, tmp_path, last_held_out=last)

    seen: dict[str, dict[str, tuple[int, int]]] = {"train": {}, "eval": {}}
    expected, leaked = [], 0
    for split in ("train", "eval"):
        for number, dataset in enumerate(datasets):
            for start, block in dataset.rows.entries():
                for place, held in enumerate(corpus.evaluated(number, block["key"].astype(np.uint64)).tolist()):
                    if held != (split == "eval"):
                        continue
                    text = texts[number][start + place]
                    leaked += split == "eval" and text in seen["train"]
                    before = seen[split].setdefault(text, (number, start + place))
                    if before != (number, start + place):
                        expected.append(((split == "eval", number, start + place), (split == "eval", *before)))
    found = find_duplicates(corpus, listed=20, part_rows=part_rows)
    assert (found.rows, found.leaked, found.first) == (len(expected), leaked, expected[:20])
    assert len(expected) > 20
    assert leaked


def test_where_a_row_of_several_files_stands_is_known_without_its_text(tmp_path: Path):
    folder = tmp_path / "fetched"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n')
    (folder / "b.jsonl").write_text('\n{"text": "c"}\n')
    rows = read_dataset(DatasetSource(0, "hf:some/rows", fetched=str(folder))).rows
    assert [rows.where(place) for place in range(3)] == [row.where for row in rows]
    assert rows.where(2) == "datasets[0].source: row 2 of b.jsonl of hf:some/rows"


# What happens meanwhile


@pytest.mark.parametrize("lines", [[], ['{"text": "b"}', '{"text": "c"}']])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path, lines: list[str]):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')
    rows = read_dataset(DatasetSource(0, file.as_uri())).rows
    file.write_text("".join(line + "\n" for line in lines))
    with pytest.raises(DatasetInvalid, match=r"^datasets\[0\]\.source: .* was changed while it was read; .* a copy"):
        list(rows)


def test_what_can_be_read_only_once_is_refused(tmp_path: Path):
    with pytest.raises(DatasetInvalid, match=r"^datasets\[0\]\.source: /dev/null is no regular file"):
        read_dataset(DatasetSource(0, "file:///dev/null"))


@pytest.mark.parametrize("name", ["train.tokens", "train.ends"])
def test_a_disk_that_is_full_of_tokens_is_told_with_the_remedy(attempt: Attempt, name: str):
    """/dev/full stands where they would be written."""
    attempt.assign(rows=QUESTIONS * 40)
    (attempt.directory / "corpus").mkdir()
    (attempt.directory / "corpus" / name).symlink_to("/dev/full")
    reason, message = failed_with(attempt)
    assert reason == "DISK_FULL"
    assert message.startswith("datasets: the node's disk has no room for the datasets' tokens (No space left on device")
    assert "give the agent a larger data_dir" in message


def test_nothing_of_the_corpus_is_left_in_the_attempt_s_directory(attempt: Attempt):
    attempt.assign(tuning_parameters={"max_steps": 1, "eval_fraction": 0.2})
    assert attempt.run() == 0, attempt.reports[-1]
    assert not (attempt.directory / "corpus").exists()


# Several ranks


def _take(meeting: str, directory: str, rank: int, ranks: int, seed: int) -> None:
    """Be a rank: take what rank 0 has, and leave it where the test finds it."""
    from torch.distributed import FileStore

    from agent.trainer.data.sharing import share_examples
    from agent.trainer.group import join

    place = Path(directory)
    place.mkdir(exist_ok=True)
    group = join(lambda _rank, size: FileStore(meeting, size), rank=rank, size=ranks, cuda=False)
    ours = written(place, made(seed, 200)) if rank == 0 else ()
    shared = share_examples(group, place, "train", ours)
    nothing = share_examples(group, place, "eval", ())
    content = b"".join(example.ids.tobytes() + example.trained.tobytes() for example in shared)
    Path(f"{meeting}.{rank}").write_bytes(content)
    Path(f"{meeting}.{rank}.facts").write_text(json.dumps([len(shared), len(nothing), place.exists()]))
    group.gather(None)
    os._exit(0)


@pytest.mark.parametrize(
    "places", [("one", "one", "one"), ("one", "other", "other")], ids=["of one node", "of two nodes"]
)
def test_every_rank_has_the_examples_whether_it_sees_them_or_not(tmp_path: Path, places: tuple[str, ...]):
    CONTEXT.set_forkserver_preload([*PRELOADED, __name__])
    meeting = str(tmp_path / "meeting")
    ranks = [
        CONTEXT.Process(target=_take, args=(meeting, str(tmp_path / place), rank, len(places), 7))
        for rank, place in enumerate(places)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    expected = b"".join(example.ids.tobytes() + example.trained.tobytes() for example in made(7, 200))
    for rank in range(3):
        assert Path(f"{meeting}.{rank}").read_bytes() == expected
        assert json.loads(Path(f"{meeting}.{rank}.facts").read_text()) == [200, 0, False]
