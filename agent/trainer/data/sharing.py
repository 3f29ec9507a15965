"""Gives every rank the examples that rank 0 has tokenized, and says which dataset they are of.

One rank reads and tokenizes: the others would only do the same again, and warn of the same rows again.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from agent.trainer.data.disk import words_for_full_disk
from agent.trainer.data.examples import Examples
from agent.trainer.data.order import Portion
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from numpy.typing import NDArray

    from agent.trainer.assignment import DatasetSource
    from agent.trainer.data.tokens import Example
    from agent.trainer.group import Group

BLOCK_BYTES = 1 << 24
"""That go through the group at once, to nodes that do not see rank 0's disk."""


def share_examples(group: Group, directory: Path, name: str, examples: Sequence[Example]) -> Sequence[Example]:
    """Rank 0's examples, on every rank; what the others give is not looked at.

    On rank 0's node all ranks read the same files. A node that does not see them gets a copy, of which its first rank
    takes the pieces to its disk. The files lose their names, so nobody has to remove them.

    Args:
        group: the ranks.
        directory: where rank 0's files are, and where the others look for them.
        name: of the split.
        examples: rank 0's; empty: there are none.

    Raises:
        DiskFull: a node's disk has no room for its copy.
    """
    if group.size > 1:
        examples = _shared(group, directory, name, examples)
        # Now all have opened them.
    for path in (directory / f"{name}.tokens", directory / f"{name}.ends"):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()
    return examples


def _shared(group: Group, directory: Path, name: str, examples: Sequence[Example]) -> Sequence[Example]:
    ours = examples if group.first and isinstance(examples, Examples) else None
    mark = group.share(_array(ours.mark if ours else b"") if group.first else None).tobytes()
    if not mark:
        return ()
    found = ours or _seen(directory, name, mark)
    missing = torch.tensor(float(found is None))
    group.add_up([missing])
    if not missing:
        return found or ()
    writes = group.share(_writers(group.gather((_host(), str(directory), found is None)), group))
    copy = directory / f"copy-{mark.hex()}"
    if writes[group.rank]:
        copy.mkdir(parents=True, exist_ok=True)
    _receive(group, ours, copy / name if writes[group.rank] else None)
    group.add_up([missing.clone()])  # nobody opens a copy before its writer has closed it
    copied = None if found is not None else Examples(copy, name)
    group.add_up([missing])
    if writes[group.rank]:
        shutil.rmtree(copy, ignore_errors=True)
    return found or copied or ()


def _seen(directory: Path, name: str, mark: bytes) -> Examples | None:
    """The very examples of rank 0, if they are to be seen from here."""
    try:
        found = Examples(directory, name)
    except OSError:
        return None
    return found if found.mark == mark else None


def _array(content: bytes) -> NDArray[np.uint8]:
    """Bytes as they go through a group; torch wants them writable."""
    return np.frombuffer(bytearray(content), np.uint8)


def _host() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _writers(ranks: Sequence[tuple[str, str, bool]], group: Group) -> NDArray[np.int8] | None:
    """Which ranks write a copy: of those that share a place and see nothing, the first. Rank 0 knows."""
    if not group.first:
        return None
    needing = [(host, directory) if missing else None for host, directory, missing in ranks]
    return np.array([place is not None and needing.index(place) == rank for rank, place in enumerate(needing)], np.int8)


def _receive(group: Group, ours: Examples | None, path: Path | None) -> None:
    """Pass the files through the group, in blocks; who has a path writes them."""
    pieces = ours.contents(BLOCK_BYTES) if ours is not None else iter(())
    with ExitStack() as opened:
        files: dict[str, BinaryIO] = {}
        while True:
            ending, content = next(pieces, ("", b""))
            told = group.share(_array(ending.encode()) if group.first else None).tobytes().decode()
            if not told:
                return
            block = group.share(_array(content) if group.first else None)
            if path is not None:
                with words_for_full_disk(path.parent, "the datasets' tokens"):
                    if told not in files:
                        files[told] = opened.enter_context(path.with_suffix(f".{told}").open("wb"))
                    files[told].write(block.tobytes())
            PULSE.beat()


def share_portions(group: Group, sources: Sequence[DatasetSource], counts: Sequence[int]) -> list[Portion]:
    """Which training examples are of which dataset, on every rank.

    Args:
        group: the ranks.
        sources: all datasets of the job.
        counts: rank 0's: how many training examples each dataset of split train has given, in their order.
    """
    shared = group.share(np.array(counts, dtype=np.int64) if group.first else None).tolist()
    trained = [source for source in sources if source.split == "train"]
    ends = np.cumsum(shared).tolist()
    return [
        Portion(first=end - count, count=count, weight=source.weight)
        for source, end, count in zip(trained, ends, shared, strict=True)
    ]
