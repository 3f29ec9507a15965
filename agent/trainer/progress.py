"""Live progress: the first step, about one a second, the last step."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.trainer.loss import Evaluation
    from agent.trainer.reports import Reports
    from agent.trainer.schedule import Schedule
    from agent.trainer.train import Halved, Step

EVERY_SECONDS = 1.0

log = logging.getLogger("trainer")


class ProgressMeter:
    """Turns steps into `progress` reports and log lines.

    Args:
        reports: where they go.
        schedule: says how many steps there will be.
        memory_bytes: the peak of the device's memory, 0 on a CPU.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        reports: Reports,
        schedule: Schedule,
        *,
        memory_bytes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reports = reports
        self._schedule = schedule
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._reported_at = clock()
        self._tokens = 0
        self._seconds_per_step = 0.0
        self._last: dict[str, Any] = {}

    def on_step(self, step: Step) -> None:
        """Take a step in; report it if it is the first, the last, or a second has passed."""
        if step.halved is not None:
            self._reports.warning("MICRO_BATCH_HALVED", _told(step.number, step.halved))
        self._tokens += step.tokens
        # The first step allocates and compiles: it must not colour the estimate for long.
        weight = 1.0 if step.number <= 2 else 0.1
        self._seconds_per_step += weight * (step.seconds - self._seconds_per_step)
        now = self._clock()
        due = now - self._reported_at >= EVERY_SECONDS
        if not (due or step.number in (1, self._schedule.total_steps)):
            return
        elapsed = max(now - self._reported_at, 1e-9)
        self._last = {
            "step": step.number,
            "total_steps": self._schedule.total_steps,
            "epoch": round(self._schedule.epoch(step.number), 4),
            "loss": round(step.loss, 6),
            "learning_rate": step.learning_rate,
            "grad_norm": round(step.grad_norm, 6),
            "tokens_per_second": round(self._tokens / elapsed, 1),
            "gpu_memory_bytes": self._memory_bytes(),
            "remaining_seconds": round((self._schedule.total_steps - step.number) * self._seconds_per_step, 1),
        }
        self._reported_at = now
        self._tokens = 0
        self._reports.append("progress", **self._last)
        log.info(
            "step=%d/%d loss=%.4f learning_rate=%.3g grad_norm=%.3f tokens_per_second=%.0f",
            step.number,
            self._schedule.total_steps,
            step.loss,
            step.learning_rate,
            step.grad_norm,
            self._last["tokens_per_second"],
        )

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Report the last step once more, with the evaluation's losses."""
        self._reports.append(
            "progress",
            **self._last,
            eval_loss_before=round(evaluation.before, 6),
            eval_loss=round(evaluation.after, 6),
        )


def _told(step: int, halved: Halved) -> str:
    """Passes that are smaller from now on, in words."""
    what = "another device's passes did not fit into its memory, which makes smaller ones from now on"
    if halved.tokens:
        what = (
            f"a pass of {halved.tokens} tokens did not fit into the device's memory; from now on one has at most "
            f"{halved.limit}"
        )
    return (
        f"at step {step} {what}. Each step still has all examples of tuning_parameters.batch_size, and only takes "
        "longer; with tuning_parameters.gradient_checkpointing larger passes fit"
    )
