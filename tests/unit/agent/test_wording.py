"""What a person reads after a crash."""

from __future__ import annotations

import pytest

from agent import wording
from agent.cgroups import MemoryUse


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (0, "status 0"),
        (3, "status 3"),
        (127, "its program was not found"),
        (-9, "resources.memory_gb"),
        (-11, "SIGSEGV"),
        (-64, "SIGRTMAX"),
        (-250, "signal 250"),
        (None, "without an exit status"),
    ],
)
def test_an_exit_status_is_put_into_words(status: int | None, said: str) -> None:
    assert said in wording.exit_in_words(status)


def test_a_crash_quotes_the_log_and_says_when_there_is_none() -> None:
    assert wording.crash(1, last_kind="", log="Traceback: boom").endswith("boom")
    assert "its log is empty" in wording.crash(1, last_kind="", log="")
    assert "without having finished" in wording.crash(0, last_kind="", log="")
    assert "after it had finished" in wording.crash(-11, last_kind="finished", log="")


def test_want_of_memory_is_told_with_the_bound_the_peak_and_the_remedy() -> None:
    bound = wording.out_of_memory(MemoryUse(limit_bytes=3 << 29, peak_bytes=(3 << 29) - 4096, kills=1))
    assert bound.startswith("resources.memory_gb: the trainer needed more than its 1.5 GiB")
    assert "at its peak it used 1.50 GiB; raise resources.memory_gb" in bound
    unbound = wording.out_of_memory(MemoryUse(limit_bytes=None, peak_bytes=1 << 30, kills=2))
    assert "the memory of this node was used up" in unbound
    assert "ask for resources.memory_gb" in unbound
