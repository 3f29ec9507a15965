"""What a person reads after a crash."""

from __future__ import annotations

import pytest

from agent import wording


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
