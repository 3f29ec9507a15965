"""What `spec.backend_options` may say under `backend: mock`: one table, which `trainplane.backends` mirrors.

Steps are counted from 1; an `…_at_step` of 0 means never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from agent.trainer.failures import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping


class Knob(NamedTuple):
    """One option: its type is its default's."""

    name: str
    default: bool | float | str
    doc: str

    @property
    def type(self) -> type:
        """bool, int, float or str."""
        return type(self.default)


KNOBS = (
    Knob("steps", 10, "optimizer steps that it pretends to make"),
    Knob("step_seconds", 0.05, "seconds that each takes"),
    Knob("progress_every_step", False, "report every step, not the first, the last and one a second"),
    Knob("reports_per_second", 0.0, "before the steps: write distinct reports at this rate (0: none)"),
    Knob("reports_at_once", 1, "of those, one after the other without a pause"),
    Knob("report_seconds", 0.0, "for so long"),
    Knob("report_kind", "warning", "warning, phase or progress"),
    Knob("fail_at_step", 0, "end with `failed` and `reason` instead of making this step"),
    Knob("reason", "TRAINER_CRASHED", "the reason of that failure"),
    Knob("nan_at_step", 0, "as the real trainer when the loss is not finite: LOSS_NOT_FINITE"),
    Knob("crash_at_step", 0, "os.abort() instead of making this step: no terminal report, killed by a signal"),
    Knob("exit_code", 0, "other than 0: exit so after the last step, without a terminal report"),
    Knob("hang_at_step", 0, "make no progress from this step on; SIGTERM and the deadline still end it"),
    Knob("ignore_sigterm", False, "only SIGKILL ends it"),
    Knob(
        "grandchild",
        False,
        "leave a child in a session of its own that ignores SIGTERM (`grandchild.pid`); ends after 10 min",
    ),
    Knob("eat_memory_mb", 0, "hold so many MiB before the first step; with `grandchild`, that one holds them"),
    Knob("torn_line_at_step", 0, "write half a JSON line before this step's report"),
    Knob("output_bytes", 4096, "bytes of weights in output/"),
    Knob("log_lines", 1, "lines written to the log at each step"),
    Knob("metrics", False, "report every step's point in `metrics` lines, as the real trainer does"),
    Knob(
        "checkpoint_every",
        0,
        "write a small checkpoint after every so many steps, of which it keeps two, and a last one when it is stopped",
    ),
    Knob("eval_loss", False, "report losses of an evaluation at the end, as a job with an eval split does"),
)


def read_knobs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Every knob with its value; an option that is null or absent has its default.

    Raises:
        ConfigInvalid: no such knob, or a value of the wrong type.
    """
    known = {knob.name: knob for knob in KNOBS}
    for name in options:
        if name not in known:
            raise ConfigInvalid(f"backend_options.{name}: no such knob; there are {', '.join(known)}")
    values = {}
    for knob in KNOBS:
        value = options.get(knob.name)
        if value is None:
            value = knob.default
        if knob.type in (int, float) and type(value) in (int, float):
            value = knob.type(value)
        if type(value) is not knob.type:
            raise ConfigInvalid(f"backend_options.{knob.name}: must be {knob.type.__name__}, got {value!r}")
        values[knob.name] = value
    return values
