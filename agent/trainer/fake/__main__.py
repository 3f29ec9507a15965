"""`python -m agent.trainer.fake <attempt directory>`: the trainer's contract without a training.

For tests of everything around a trainer, for benchmarks, and to try trainplane where torch is not installed.
It keeps the contract (first line first, own deadline, 143 at SIGTERM, a complete output before `finished`)
and breaks it where it is told to, by `spec.backend_options`; knobs.py is the table:

| knob | default | effect |
|---|---|---|
| `steps`, `step_seconds` | 10, 0.05 | how long it takes |
| `progress_every_step` | false | one report a step |
| `reports_per_second`, `report_seconds`, `report_kind` | 0, 0, warning | distinct reports at a rate, before the steps |
| `reports_at_once` | 1 | how many of them without a pause |
| `fail_at_step`, `reason` | 0, TRAINER_CRASHED | a told failure |
| `nan_at_step`, `crash_at_step`, `exit_code` | 0 | LOSS_NOT_FINITE; abort; an exit status without a terminal report |
| `hang_at_step`, `ignore_sigterm`, `grandchild` | 0, false, false | hard to end |
| `eat_memory_mb` | 0 | memory that it, or its `grandchild`, holds |
| `torn_line_at_step` | 0 | half a line in the reports |
| `checkpoint_every` | 0 | small checkpoints, and a last one when it is stopped |
| `output_bytes`, `log_lines`, `metrics`, `eval_loss` | 4096, 1, false, false | what it leaves and says |
"""

from __future__ import annotations

import sys

from agent.trainer import first_line

USAGE_STATUS = 2


def main(attempt_directory: str) -> int:
    """Run one attempt; returns the exit status."""
    first_line.append_started(attempt_directory)

    from agent.trainer.fake.pretence import pretend

    return pretend(attempt_directory)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m agent.trainer.fake <attempt directory>", file=sys.stderr)
        sys.exit(USAGE_STATUS)
    sys.exit(main(sys.argv[1]))
