"""The engine that trains nothing: `agent.trainer.fake`, with the same contract as a real one and knobs for its faults.

It is product code: it lets a platform be tried, and its failures rehearsed, without a GPU. The options mirror the fake
trainer's own table, which this package may not import; a test holds the two equal.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainplane.backends.backend import Finding

_WORDS = {bool: "true or false", int: "a whole number from 0", float: "a number from 0", str: "a word"}
_MOST = 2**31 - 1
_LONGEST = 63

_SCHEMAS: dict[type, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "minimum": 0, "maximum": _MOST},
    float: {"type": "number", "minimum": 0, "maximum": _MOST},
    str: {"type": "string", "minLength": 1, "maxLength": _LONGEST, "pattern": "^[ -~]*$"},
}

#: Option -> its type.
OPTIONS: dict[str, type] = {
    "steps": int,
    "step_seconds": float,
    "progress_every_step": bool,
    "reports_per_second": float,
    "reports_at_once": int,
    "report_seconds": float,
    "report_kind": str,
    "fail_at_step": int,
    "reason": str,
    "nan_at_step": int,
    "crash_at_step": int,
    "exit_code": int,
    "hang_at_step": int,
    "ignore_sigterm": bool,
    "grandchild": bool,
    "eat_memory_mb": int,
    "torn_line_at_step": int,
    "output_bytes": int,
    "log_lines": int,
    "metrics": bool,
    "eval_loss": bool,
    "checkpoint_every": int,
}


class Mock:
    """The fake trainer, by its knobs."""

    name = "mock"
    description = "Trains nothing and fails as it is told to: for trying a platform, and rehearsing its faults."
    several_nodes = True

    def schema(self) -> dict[str, Any]:
        """The knobs."""
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: dict(_SCHEMAS[wanted]) for name, wanted in OPTIONS.items()},
        }

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """Refuse an option that is no knob, and a value of another type."""
        found: list[Finding] = []
        for key, value in effective_spec.get("backend_options", {}).items():
            field = f"backend_options.{key[:60]}"
            wanted = OPTIONS.get(key)
            if wanted is None:
                near = get_close_matches(key[:60], OPTIONS, n=1)
                meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(OPTIONS)}"
                found.append((field, "UNKNOWN_FIELD", f"backend mock has no such option; {meant}"))
            elif not _is(value, wanted):
                found.append((field, "WRONG_TYPE", f"must be {_WORDS[wanted]}"))
            elif wanted is not bool and not _in_range(value):
                found.append((field, "OUT_OF_RANGE", f"must be {_WORDS[wanted]}, at most {_most(wanted)}"))
        return found

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """Start the fake trainer's package; it reads `assignment.json` in the directory."""
        return [python, "-m", "agent.trainer.fake", attempt_dir]


def _is(value: Any, wanted: type) -> bool:
    if wanted is float:
        return type(value) in {int, float}
    return type(value) is wanted


def _in_range(value: float | str) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= _LONGEST and value.isascii() and value.isprintable()
    return 0 <= value <= _MOST


def _most(wanted: type) -> str:
    return f"{_LONGEST} characters" if wanted is str else str(_MOST)


MOCK = Mock()
