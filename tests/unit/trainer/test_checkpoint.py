"""Which checkpoints are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent import checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def save(root: Path, step: int, keep: int) -> checkpoint.Checkpoint:
    return checkpoint.save(root, step, {"state.json": lambda path: path.write_text("{}") and None}, keep=keep)


def test_the_one_just_written_is_kept_whatever_lies_beside_it(tmp_path: Path):
    """A later one is broken or another training's: this one went on without it."""
    root = tmp_path / "checkpoints"
    save(root, 9, 1)
    written = save(root, 3, 1)
    assert [path.name for path in root.iterdir()] == ["00000003"]
    assert checkpoint.verified(written.path).manifest_digest == written.manifest_digest
    assert written.oldest_step == 3


def test_the_oldest_that_is_kept_is_told(tmp_path: Path):
    root = tmp_path / "checkpoints"
    assert [save(root, step, 2).oldest_step for step in (2, 4, 6)] == [2, 2, 4]
    assert sorted(int(path.name) for path in root.iterdir()) == [4, 6]
