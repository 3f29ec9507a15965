"""Any error becomes a reason and words."""

from __future__ import annotations

import errno

import pytest

from agent.trainer import failures


def every_failure() -> list[type[failures.TrainingFailure]]:
    return failures.TrainingFailure.__subclasses__()


@pytest.mark.parametrize("failure", every_failure(), ids=lambda failure: failure.reason)
def test_our_own_failures_say_their_reason_and_message(failure: type[failures.TrainingFailure]):
    assert failures.describe(failure("datasets: words")) == (failure.reason, "datasets: words")


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = {line.split()[-1] for line in (failures.__doc__ or "").splitlines() if "──" in line}
    assert drawn == {failure.reason for failure in every_failure()}


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is known by its name."""


OutOfMemoryError.__module__ = "torch"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "OUT_OF_MEMORY_HOST"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), "OUT_OF_MEMORY_HOST"),
        (OutOfMemoryError("CUDA out of memory."), "OUT_OF_MEMORY_GPU"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "DISK_FULL"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "DISK_FULL"),
        (OSError(errno.EIO, "Input/output error"), "TRAINER_CRASHED"),
        (KeyError("x"), "TRAINER_CRASHED"),
    ],
)  # fmt: skip
def test_foreign_errors_are_sorted(error: Exception, reason: str):
    assert failures.describe(error)[0] == reason


def test_a_crash_shows_the_last_lines_of_its_traceback():
    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise ValueError("the very end")

    with pytest.raises(ValueError, match="the very end") as caught:
        deep(30)
    message = failures.describe(caught.value)[1]
    assert message.splitlines()[-1] == "ValueError: the very end"
    assert len(message.splitlines()) == failures.TRACEBACK_LINES
