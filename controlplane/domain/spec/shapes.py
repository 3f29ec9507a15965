"""What a text field may look like: one Shape each, named in the field table.

A shape has a pattern that accepts the ordinary value at once (a submit has microseconds), and says in words what is
wrong with any other. A description never repeats the value: it may hold a password (`https://user:secret@…`) that the
caller meant for somewhere else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.domain.spec import locations
from controlplane.domain.spec.problem import MALFORMED, Problem
from controlplane.domain.spec.rules import Rules

Judge = Callable[[str, Rules], Problem | None]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a text may look like.

    Attributes:
        says: in words, after "must be ": the reference and the refusal use it alike.
        accepts: a text that matches in full is right, without a further question.
        judge: asked about a text that `accepts` does not know; None: such a text is malformed.
        lines: whether line breaks and tabs may stand in it.
    """

    says: str
    accepts: re.Pattern[str] | None = None
    judge: Judge | None = None
    lines: bool = False

    def problem(self, text: str, rules: Rules) -> Problem | None:
        """What is wrong with a text, or None. Never repeats the text."""
        unfit = _CONTROL_BUT_LINES.search(text) if self.lines else _CONTROL.search(text)
        if unfit:
            return MALFORMED, f"must be {self.says}; character {unfit.start() + 1} is {_named(unfit.group())}"
        if self.judge is not None:
            return self.judge(text, rules)
        if self.accepts is not None and not self.accepts.fullmatch(text):
            return MALFORMED, f"must be {self.says}"
        return None


def _named(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        return f"the lone surrogate U+{code:04X}"
    known = {0: "NUL", 9: "a tab", 10: "a line feed", 13: "a carriage return"}
    return known.get(code, f"the control character U+{code:04X}")


def _matching(pattern: str, says: str) -> Shape:
    return Shape(says, re.compile(pattern, re.ASCII))


def _located(kind: locations.Kind) -> Shape:
    return Shape(kind.says, kind.accepts, kind.problem)


JOB_ID = _matching(r"[A-Za-z0-9_-]{1,63}", "1 to 63 of A-Z a-z 0-9 _ -")
#: Whether it is a hub id or a path depends on the provider, so relations.py judges it further.
MODEL_NAME = Shape("`owner/name` on the hub, an absolute path with provider `local`, or s3://bucket/prefix/ with `s3`")
_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
HUB_REPOSITORY = _matching(
    rf"(?!.*(?:\.\.|--)){_HUB_PART}/{_HUB_PART}",
    "`owner/name` on the hub, each part up to 96 of A-Z a-z 0-9 . _ -",
)
REVISION = _matching(
    r"(?!.*(?:\.\.|//))[A-Za-z0-9][A-Za-z0-9._/-]{0,254}",
    "a branch, tag or commit: A-Z a-z 0-9 . _ - /, without `..`",
)
TOKEN = _matching(r"[!-~]+", "one word of visible ASCII characters")
HEADER_VALUE = _matching(r"[!-~](?:[ -~]*[!-~])?", "visible ASCII characters and spaces on one line")
MODULE = _matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a module's name or path, e.g. `q_proj` or `layers.0`")
DEVICE_WORDS = _matching(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9])?", "words of a device's name, e.g. `A100-80GB`")
NODE_NAME = _matching(r"[A-Za-z0-9_-]{1,63}", "a node's name: 1 to 63 of A-Z a-z 0-9 _ -")
ROLE_ARN = _matching(r"arn:aws[a-z-]*:iam::\d+:role/[!-~]+", "an IAM role: arn:aws:iam::<account>:role/<name>")
LABEL_KEY = _matching(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?", "1 to 63 of A-Z a-z 0-9 . _ - /")
#: Which names there are depends on what is installed, so relations.py judges it further.
BACKEND = Shape("a training engine's name, e.g. `peft`")
LINE = Shape("one line of text")
TEMPLATE = Shape("a text", lines=True)
SOURCE = _located(locations.SOURCE)
PREFIX = _located(locations.PREFIX)
WEIGHTS = _located(locations.WEIGHTS)
CALLED_URL = _located(locations.CALLED)


def is_job_id(text: str) -> bool:
    """Whether a job may be called so: for an id that does not stand in a spec (a header, a path)."""
    return bool(text) and JOB_ID.accepts is not None and JOB_ID.accepts.fullmatch(text) is not None
