"""The training loop, top to bottom (ADR 0005, ADR 0010).

    effective batch -> this rank's share -> plan of micro-batches -> gradient -> sum over the ranks -> clip -> step

Every rank adds up losses, not means, and divides by the trained tokens of the whole effective batch: the sum over the
ranks is then the very gradient that one rank would have computed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import torch

from agent.failpoints import failpoint
from agent.trainer.data.batches import collate_rows
from agent.trainer.data.examples import ExampleLengths
from agent.trainer.data.order import Portion, effective_batches, halved, padded_tokens, plan, share
from agent.trainer.failures import LossNotFinite, OutOfGpuMemory
from agent.trainer.finite import require_finite_weights
from agent.trainer.group import ALONE, PATIENCE_SECONDS
from agent.trainer.history import History
from agent.trainer.loss import summed_loss
from agent.trainer.metrics import Point
from agent.trainer.neftune import EmbeddingNoise
from agent.trainer.passes import IDLE
from agent.trainer.pulse import PULSE
from agent.trainer.stopping import STOP, Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.trainer.assignment import Tuning
    from agent.trainer.data.order import Plan
    from agent.trainer.data.tokens import Example
    from agent.trainer.group import Group
    from agent.trainer.model import AdaptedModel
    from agent.trainer.resuming import Checkpointing
    from agent.trainer.schedule import Schedule

LEAST_SCALE = 1.0
"""Of a loss in fp16: if its gradient is not finite even then, the training is not."""

log = logging.getLogger("trainer")


@dataclass(frozen=True, slots=True)
class Halved:
    """Passes that did not fit into a device's memory, and are smaller from then on. Tokens, padding included."""

    tokens: int
    """The most of one that did not fit; 0: on another rank, which alone knows."""
    limit: int
    """The most of one since; 0: as above."""


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step that was made. `loss` is the mean per trained token of the effective batch."""

    number: int
    """From 1."""
    loss: float
    learning_rate: float
    grad_norm: float
    """Before clipping; 0 of a step that was skipped."""
    tokens: int
    """Tokens of the effective batch's examples, padding not counted."""
    trained_tokens: int
    padded_tokens: int
    """That this rank computed, padding included."""
    micro_batches: int
    micro_batch_examples: int
    """Of this rank's largest micro-batch."""
    seconds: float
    skipped: bool = False
    """The weights were left alone: in fp16 the scaled gradient was too large, and the next one is scaled by less."""
    halved: Halved | None = None
    """None: everything fitted."""

    @property
    def point(self) -> Point:
        """What the dense curves show of it."""
        speed = round(self.tokens / max(self.seconds, 1e-9), 1)
        return Point(self.number, round(self.loss, 6), self.learning_rate, round(self.grad_norm, 6), speed)


class Wishes(NamedTuple):
    """What is to follow on a step; what one rank wishes, all do."""

    checkpoint: bool
    stop: bool
    telling: bool
    """That passes did not fit: rank 0 tells it."""


class Trainer:
    """Optimizer, data order and model of one training.

    Args:
        adapted: the model; it is trained in place.
        examples: at least one.
        tuning: the job's.
        schedule: the steps and their learning rates.
        group: the ranks that train together; each has all examples and a replica of the model.
        portions: which examples are of which dataset; none: all are of one.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        examples: Sequence[Example],
        tuning: Tuning,
        schedule: Schedule,
        group: Group = ALONE,
        *,
        portions: Sequence[Portion] = (),
    ) -> None:
        self.adapted = adapted
        self.examples = examples
        self.tuning = tuning
        self.schedule = schedule
        self.group = group
        self.portions = portions or (Portion(0, len(examples)),)
        self.noise = EmbeddingNoise(adapted, tuning.neftune_noise_alpha)
        self.cost = adapted.device.cost
        """Its limit is halved when memory runs out."""
        self.parameters = adapted.trainable
        self.parameter_names = [name for name, p in adapted.model.named_parameters() if p.requires_grad]
        # One fused call takes no sharded parameters beside others.
        parts = [[p for p in self.parameters if self._is_part(p) == sharded] for sharded in (False, True)]
        self.optimizer = torch.optim.AdamW(
            [{"params": part} for part in parts if part],
            lr=tuning.learning_rate,
            weight_decay=tuning.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(adapted.device.torch_device.type, enabled=adapted.scales_loss)
        """In fp16 small gradients would be 0: the loss is multiplied by as much as still gives finite ones."""

    def run(
        self,
        on_step: Callable[[Step], None],
        checkpoints: Checkpointing | None = None,
        history: History | None = None,
    ) -> History:
        """Make all steps, calling `on_step` after each.

        Args:
            on_step: told of every step.
            checkpoints: written after the steps for which one is wanted, but not after the last.
            history: as `Checkpointing.resume` gave it: its steps are not made again.

        Raises:
            LossNotFinite: at the step where it happened, before the weights are touched.
            OutOfGpuMemory: one example alone does not fit.
            Stopped: it was asked for (`stopping.py`); the state after the step that was being made is written.
        """
        history = history or History()
        order = effective_batches(self.portions, batch_size=self.tuning.batch_size, seed=self.tuning.seed)
        lengths = ExampleLengths(self.examples)
        self.adapted.model.train()
        done = len(history.losses)
        for number in range(1, self.schedule.total_steps + 1):
            batch = next(order)
            in_first_epoch = number <= self.schedule.steps_per_epoch
            if number <= done and not in_first_epoch:
                continue
            own = share(batch, lengths, rank=self.group.rank, size=self.group.size)
            if in_first_epoch:
                history.first_epoch.extend(own)
            if number <= done:
                continue
            wanted = checkpoints is not None and number < self.schedule.total_steps and checkpoints.wanted(number)
            examples = [self.examples[i] for i in batch]
            try:
                step, wishes = self._step(number, examples, own=[self.examples[i] for i in own], wanted=wanted)
                history.add(step)
                on_step(step)
                failpoint(f"trainer.step-{number}")
                if wishes.stop:
                    self._end(checkpoints, history)
                if wishes.checkpoint and checkpoints is not None:
                    checkpoints.write(self, history)
            except LossNotFinite as error:
                raise self.with_last_good(error, checkpoints, failed_step=len(history.losses) + 1) from error
        return history

    def with_last_good(self, error: LossNotFinite, checkpoints: Checkpointing | None, *, failed_step: int) -> Exception:
        """The failure, with what is left of the training; to be raised by all ranks."""
        if not self.group.first:
            # Rank 0 says it. The first to end is heard, and it ends the others.
            threading.Event().wait(PATIENCE_SECONDS)
            return error
        return LossNotFinite(f"{error}{checkpoints.last_good(failed_step)}") if checkpoints is not None else error

    def _end(self, checkpoints: Checkpointing | None, history: History) -> NoReturn:
        """Stop here, with a last checkpoint. A disk that is full does not make a failure of a stop."""
        log.info("asked to stop after step %d", len(history.losses))
        if checkpoints is not None:
            try:
                checkpoints.write(self, history)
            except OSError as error:
                log.warning("the last checkpoint was not written: %s", error)
        raise Stopped

    def _step(
        self, number: int, batch: Sequence[Example], *, own: Sequence[Example], wanted: bool
    ) -> tuple[Step, Wishes]:
        """The step, and what any rank wishes to follow on it."""
        began = time.perf_counter()
        trained_tokens = sum(example.trained_tokens for example in batch)
        made, own_loss, smaller = self._gradient(own, trained_tokens)
        allocation = self.adapted.allocation
        if allocation is not None and self.group.first:
            # Once a step, whatever the micro-batches and the ranks; what is reported stays the loss of the tokens.
            self.scaler.scale(allocation.penalty()).backward()  # type: ignore[no-untyped-call]
        failpoint(f"trainer.gradient-{number}")
        loss, wishes = self._add_up(own_loss, Wishes(checkpoint=wanted, stop=STOP.asked, telling=smaller is not None))
        rate, grad_norm = self.schedule.rate(number - 1), self._descend(number, loss)
        made_step = Step(
            number=number,
            loss=loss,
            learning_rate=rate,
            grad_norm=grad_norm or 0.0,
            skipped=grad_norm is None,
            halved=smaller or (Halved(0, 0) if wishes.telling else None),
            tokens=sum(len(example) for example in batch),
            trained_tokens=trained_tokens,
            padded_tokens=padded_tokens(made, [len(example) for example in own]),
            micro_batches=len(made),
            micro_batch_examples=max((sum(map(len, rows)) for rows in made), default=0),
            seconds=time.perf_counter() - began,
        )
        return made_step, wishes

    def _descend(self, number: int, loss: float) -> float | None:
        """Change the weights by the gradient; its norm before clipping, None if the step was skipped for its scale.

        Raises:
            LossNotFinite: see `run`.
        """
        self.scaler.unscale_(self.optimizer)
        norm = self._clip(self.tuning.max_grad_norm or math.inf)
        scales = self.scaler.is_enabled() and self.scaler.get_scale() >= LEAST_SCALE
        skipped = scales and not math.isfinite(norm)
        if not math.isfinite(loss) or not (math.isfinite(norm) or skipped):
            if number == 1:
                require_finite_weights(self.adapted)
            remedy = ", or ask for customization.precision bf16" if self.scaler.is_enabled() else ""
            raise LossNotFinite(
                f"tuning_parameters.learning_rate: at step {number} the loss is {loss} and its gradient's norm "
                f"{norm}; lower the learning rate, warm up longer, or look for broken rows{remedy}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(number - 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.adapted.allocation is not None and not skipped:
            self.adapted.allocation.after_step(number)
        self.optimizer.zero_grad()
        return None if skipped else norm

    def _is_part(self, parameter: torch.Tensor) -> bool:
        return self.adapted.sharding is not None and self.adapted.sharding.is_part(parameter)

    def _clip(self, most: float) -> float:
        """Clip the gradient; its norm before."""
        if self.adapted.sharding is not None:
            return self.adapted.sharding.clip(self.parameters, most).item()
        return torch.nn.utils.clip_grad_norm_(self.parameters, most).item()

    def _add_up(self, own_loss: torch.Tensor, own_wishes: Wishes) -> tuple[float, Wishes]:
        """Make every rank's gradient that of the whole effective batch, in one exchange; the loss of it.

        With it go the ranks' wishes: clocks differ, and all must do the same after the same step.
        """
        for parameter in self.parameters:
            if parameter.grad is None and self.group.size > 1:
                # The last batch of an epoch may have fewer examples than there are ranks.
                parameter.grad = torch.zeros_like(parameter)
        if self.group.size == 1:
            return own_loss.item(), own_wishes
        wishes = torch.tensor([float(wish) for wish in own_wishes], device=own_loss.device)
        # The gradients of what is sharded were added up on their way.
        whole = (p.grad for p in self.parameters if p.grad is not None and not self._is_part(p))
        self.group.add_up([own_loss, wishes, *whole])
        return own_loss.item(), Wishes(*(wish > 0 for wish in wishes.tolist()))

    def _gradient(self, batch: Sequence[Example], trained_tokens: int) -> tuple[Plan, torch.Tensor, Halved | None]:
        """Accumulate the gradient of this rank's part of the mean loss; the plan made, that part, what was halved.

        Args:
            batch: this rank's share of the effective batch.
            trained_tokens: of the whole effective batch.
        """
        longest_row = self.tuning.max_sequence_length if self.tuning.packing else 0
        smaller = None
        side_by_side = self.adapted.attends_by_document
        while True:
            lengths = [len(example) for example in batch]
            made = plan(lengths, self.cost, longest_row=longest_row, side_by_side=side_by_side)
            total = torch.zeros((), device=self.adapted.device.torch_device)

            def one(number: int, made: Plan = made, total: torch.Tensor = total) -> None:
                total += self._pass([[batch[index] for index in row] for row in made[number]], trained_tokens)

            fit = self.adapted.passes.run("train", len(made), one, lambda: self._pass([[IDLE]], math.inf))
            if fit.all:
                return made, total, smaller
            self.optimizer.zero_grad()
            if not fit.own:
                tried = self._halve(made, batch)
                smaller = Halved(smaller.tokens if smaller else tried.tokens, tried.limit)

    def _pass(self, rows: Sequence[Sequence[Example]], divisor: float) -> torch.Tensor:
        """Accumulate the gradient of a micro-batch's part of the loss; that part. Divided by infinity it is no part."""
        micro = collate_rows(rows, pad_id=self.adapted.pad_id, device=self.adapted.device.torch_device)
        self.noise.expect(micro)
        loss = summed_loss(self.adapted, micro) / divisor
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        PULSE.beat()
        return loss.detach()

    def _halve(self, made: Plan, batch: Sequence[Example]) -> Halved:
        """Go on with half of what did not fit; the effective batch stays."""
        lengths = [len(example) for example in batch]
        cost = halved(self.cost, made, lengths)
        if cost is None:
            raise OutOfGpuMemory(
                f"one example of {max(lengths)} tokens does not fit the device's memory; lower "
                "tuning_parameters.max_sequence_length or set tuning_parameters.gradient_checkpointing"
            )
        torch.cuda.empty_cache()
        self.cost = cost
        return Halved(max(padded_tokens([rows], lengths) for rows in made), cost.limit)
