"""What an operating system's refusal to write means for a job, and what would help."""

from __future__ import annotations

import errno
import os

import pytest

from agent.uploader.failures import from_os_error

WHAT = "artifacts.output_uri: writing below file:///results/a/"


@pytest.mark.parametrize(
    ("number", "reason", "lasting", "remedy"),
    [
        (errno.EROFS, "STORAGE_DENIED", True, "let the agent's user write there, or name another place"),
        (errno.EACCES, "STORAGE_DENIED", True, "let the agent's user write there, or name another place"),
        (errno.ENOTDIR, "STORAGE_DENIED", True, "let the agent's user write there, or name another place"),
        (errno.ENOSPC, "DISK_FULL", False, "free some room there, or name another place"),
        (errno.EDQUOT, "DISK_FULL", False, "free some room there, or name another place"),
    ],
)
def test_a_place_that_cannot_be_written_says_why_where_and_what_would_help(
    number: int, reason: str, *, lasting: bool, remedy: str
) -> None:
    found = from_os_error(OSError(number, os.strerror(number), "/results/a"), what=WHAT)
    assert (found.reason, found.lasting) == (reason, lasting)
    assert str(found) == f"{WHAT}: {os.strerror(number)} (/results/a): {remedy}"
