"""The training loop, top to bottom.

    batch of the epoch's order -> passes of examples of like length -> gradient -> clip -> AdamW

The loss is the sum over the trained tokens, divided by those of the whole batch: however it is cut into passes, the
gradient is the same.
"""

from __future__ import annotations

import json
import math
import random
import time
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from trainplane_bare import checkpoint, lora
from trainplane_bare.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trainplane_bare.llama import Llama
    from trainplane_bare.lora import Lora
    from trainplane_bare.plan import Plan
    from trainplane_bare.reports import Reports
    from trainplane_bare.rows import Example

CHECKPOINT_SECONDS = 300.0
CHECKPOINTS_KEPT = 2
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Step:
    """One that was made; the loss is the mean per trained token."""

    number: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float


class Loop:
    """One training.

    Args:
        plan: the attempt's.
        model: with its adapters in place.
        adapters: what is trained.
        examples: at least one.
        pulse: called after every pass.
    """

    def __init__(
        self,
        plan: Plan,
        model: Llama,
        adapters: dict[str, Lora],
        examples: Sequence[Example],
        *,
        pulse: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.pulse = pulse
        self.model = model
        self.examples = examples
        self.device = model.model.embed_tokens.weight.device
        self.parameters = lora.named_tensors(adapters)
        self.total_steps = plan.total_steps(len(examples))
        self.losses: list[float] = []
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=1.0, weight_decay=plan.tuning.get("weight_decay", 0.0), fused=True
        )

    def run(
        self,
        on_step: Callable[[Step], None],
        checkpoints: Callable[[int], bool],
        on_checkpoint: Callable[[dict[str, Any]], None],
        root: Path,
        identity: str,
        *,
        asked: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Make the steps that are left; False: it was asked to end before, and has written a last checkpoint.

        Args:
            on_step: told of each.
            checkpoints: whether one is wanted after a step.
            on_checkpoint: told what is reported of each.
            root: where they go.
            identity: what they say of themselves.
            asked: whether it is to end after the step that it has made.

        Raises:
            Failure: LOSS_NOT_FINITE, before the weights are touched.
        """
        self.model.train()
        for number in range(len(self.losses) + 1, self.total_steps + 1):
            step = self._step(number)
            self.losses.append(step.loss)
            on_step(step)
            ending = asked()
            if ending or (number < self.total_steps and checkpoints(number)):
                on_checkpoint(self._save(root, identity))
            if ending:
                return False
        return True

    def resume(self, found: checkpoint.Checkpoint) -> None:
        """Go on from a checkpoint as if nothing had happened."""
        weights = load_file(found.path / "weights.safetensors")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(found.path / "optimizer.safetensors").items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        torch.set_rng_state(_tensor(found.state["random"]))
        if found.state["cuda_random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(_tensor(found.state["cuda_random"]))
        self.losses = found.state["losses"]

    def _save(self, root: Path, identity: str) -> dict[str, Any]:
        moments = {
            f"{index}.{name}": value.detach().cpu().clone()
            for index, values in self.optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        weights = {name: tensor.detach().cpu().clone() for name, tensor in self.parameters.items()}
        state: dict[str, Any] = {
            "identity": identity,
            "losses": self.losses,
            "random": _text(torch.get_rng_state()),
            "cuda_random": _text(torch.cuda.get_rng_state()) if self.device.type == "cuda" else "",
        }
        return checkpoint.save(
            root,
            len(self.losses),
            {
                "weights.safetensors": lambda path: save_file(weights, path),
                "optimizer.safetensors": lambda path: save_file(moments, path),
                "state.json": lambda path: _write(path, state),
            },
            keep=self.plan.tuning.get("checkpoint_limit") or CHECKPOINTS_KEPT,
        )

    def _step(self, number: int) -> Step:
        began = time.perf_counter()
        batch = [self.examples[index] for index in self._batch(number)]
        trained = sum(sum(example.targets) for example in batch)
        loss = 0.0
        for examples in self._passes(batch):
            part = self._summed_loss(examples) / trained
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            self.pulse()
        bound = self.plan.tuning.get("max_grad_norm") or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), bound).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Failure(
                "LOSS_NOT_FINITE",
                f"tuning_parameters.learning_rate: at step {number} the loss is {loss} and its gradient's norm {norm}; "
                "lower the learning rate, warm up longer, or look for broken rows",
            )
        rate = self.plan.rate(number - 1, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(example.ids) for example in batch)
        return Step(number, loss, rate, norm, tokens, time.perf_counter() - began)

    def _batch(self, number: int) -> list[int]:
        """The examples of a step: a function of seed and step, so that it is no state."""
        size = self.plan.tuning.get("batch_size", 8)
        epoch, place = divmod(number - 1, self.plan.steps_per_epoch(len(self.examples)))
        order = list(range(len(self.examples)))
        random.Random(f"{self.plan.tuning.get('seed', 0)}/{epoch}").shuffle(order)  # noqa: S311 - no secret
        return order[place * size : (place + 1) * size]

    def _passes(self, batch: list[Example]) -> list[list[Example]]:
        """Examples of like length together, the longest first: if memory does not do, that is seen at once."""
        by_length = sorted(batch, key=lambda example: -len(example.ids))
        size = self.plan.micro_batch_size
        return [by_length[start : start + size] for start in range(0, len(by_length), size)]

    def _summed_loss(self, examples: list[Example]) -> torch.Tensor:
        longest = max(len(example.ids) for example in examples)
        ids = np.zeros((len(examples), longest), dtype=np.int64)
        targets = np.full((len(examples), longest), IGNORED, dtype=np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
            # The logits of a place are of the token after it.
            targets[row, : len(example.ids) - 1] = np.where(example.targets[1:], example.ids[1:], IGNORED)
        wanted = torch.from_numpy(targets != IGNORED).to(self.device)
        logits = self.model(torch.from_numpy(ids).to(self.device), wanted).float()
        return functional.cross_entropy(logits, torch.from_numpy(targets).to(self.device)[wanted], reduction="sum")


def wish(plan: Plan, clock: Callable[[], float] = time.monotonic) -> Callable[[int], bool]:
    """Whether a checkpoint is wanted after a step: every so many, else every five minutes."""
    steps, written_at = plan.tuning.get("checkpoint_steps"), clock()

    def wanted(number: int) -> bool:
        nonlocal written_at
        due = number % steps == 0 if steps else clock() - written_at >= CHECKPOINT_SECONDS
        if due:
            written_at = clock()
        return due

    return wanted


class Meter:
    """Turns steps into `progress` (the first, one a second, the last) and `metrics` (every one, every five seconds)."""

    def __init__(self, reports: Reports, loop: Loop, steps_per_epoch: int) -> None:
        self._reports = reports
        self._loop = loop
        self._steps_per_epoch = steps_per_epoch
        self._told_at = self._plotted_at = time.monotonic()
        self._tokens = 0
        self._points: list[tuple[int, float, float, float, float]] = []

    def on_step(self, step: Step) -> None:
        """Take a step in."""
        now, last = time.monotonic(), step.number == self._loop.total_steps
        self._tokens += step.tokens
        speed = round(step.tokens / max(step.seconds, 1e-9), 1)
        point = (step.number, round(step.loss, 6), step.learning_rate, round(step.grad_norm, 6), speed)
        self._points.append(point)
        if last or len(self._points) == 500 or now - self._plotted_at >= 5:
            self.plot()
        if last or step.number == len(self._loop.losses) == 1 or now - self._told_at >= 1:
            self._tell(step, now)

    def plot(self) -> None:
        """Tell the points that were not told yet; before a checkpoint, for its steps are not made again."""
        if self._points:
            names = ("step", "loss", "learning_rate", "grad_norm", "tokens_per_second")
            columns = map(list, zip(*self._points, strict=True))
            self._reports.append("metrics", series=dict(zip(names, columns, strict=True)))
        self._points, self._plotted_at = [], time.monotonic()

    def _tell(self, step: Step, now: float) -> None:
        on_gpu = self._loop.device.type == "cuda"
        self._reports.append(
            "progress",
            step=step.number,
            total_steps=self._loop.total_steps,
            epoch=round(step.number / self._steps_per_epoch, 4),
            loss=round(step.loss, 6),
            learning_rate=step.learning_rate,
            grad_norm=round(step.grad_norm, 6),
            tokens_per_second=round(self._tokens / max(now - self._told_at, 1e-9), 1),
            gpu_memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
            remaining_seconds=round((self._loop.total_steps - step.number) * step.seconds, 1),
        )
        self._tokens, self._told_at = 0, now


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


def _text(state: torch.Tensor) -> str:
    return b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(b64decode(text), dtype=np.uint8).copy())
