"""Why `up` cannot run: one tree, each with what the user can do.

UpError
├── Taken            someone else has the port or the data directory; names who
├── ProgramMissing   a part is not installed
├── SettingsRefused  a settings file says what it may not, or what is wrong
└── ChildFailed      a child ended for good; has the last lines of its log
"""

# ruff: noqa: N818 - these names say what happened; every one is an error

from __future__ import annotations


class UpError(Exception):
    """Root of the tree; the message is for the user."""


class Taken(UpError):
    """Someone else has what `up` needs."""


class ProgramMissing(UpError):
    """A part is not installed."""


class SettingsRefused(UpError):
    """A settings file for one of the parts cannot be used; names the file and its keys."""


class ChildFailed(UpError):
    """A child ended, and starting it again would not help.

    Args:
        name: the child.
        why: how it ended.
        last_lines: the end of its log.
    """

    def __init__(self, name: str, why: str, *, last_lines: str) -> None:
        super().__init__(f"{name} {why}" + (f"; its last lines:\n{last_lines}" if last_lines else ""))
        self.name = name
        self.last_lines = last_lines
