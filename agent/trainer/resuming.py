"""When a training writes its state, and how one goes on from it.

What a step depends on, and so what the state is: the weights that move, the optimizer's moments, each rank's random
numbers and the limit of its passes. The order of the examples and the learning rate are functions of the step's number.
"""

from __future__ import annotations

import json
import logging
import time
from base64 import b64decode, b64encode
from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from agent import checkpoint
from agent.failpoints import failpoint
from agent.trainer.data.order import PassCost
from agent.trainer.failures import LossNotFinite
from agent.trainer.history import History
from agent.trainer.pulse import PULSE
from agent.trainer.tensor_file import Described, write_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from agent.checkpoint import Checkpoint
    from agent.trainer.data.tokens import Example
    from agent.trainer.reports import Reports
    from agent.trainer.train import Trainer

EVERY_SECONDS = 300.0
"""Between checkpoints, where the job does not say after how many steps."""


log = logging.getLogger("trainer")


class Checkpointing:
    """The checkpoints of one training, as one of its ranks sees them; rank 0 writes, and all of them read.

    Args:
        roots: directories of checkpoints: this attempt's own, then where an earlier attempt's are.
        identity: what must be the same for a checkpoint to be of this training.
        steps: optimizer steps between two; None: EVERY_SECONDS.
        keep: how many are kept.
        reports: told of each that was written, and of each that cannot be used.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        identity: str,
        *,
        steps: int | None,
        keep: int | None,
        reports: Reports,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._roots = roots
        self._identity = identity
        self._steps = steps
        self._keep = keep or checkpoint.KEPT
        self._reports = reports
        self._clock = clock
        self._written_at = clock()
        self._kept_steps: list[int] = []
        self.flush: Callable[[], None] = lambda: None
        """Called before one is written: the steps until then are not made again, so what is told of them must be."""
        self.place = ""
        """Where they are to be found, in words that follow on "a checkpoint"."""
        self.facts: dict[str, Any] = {}
        """Further facts to be kept, and after `resume` those that were; JSON."""
        self.here: Callable[[str], str] | None = None
        """Makes a copy of rank 0's directory on each node that has other ranks, and answers where; called by all ranks
        alike. None: all are on its node."""

    def wanted(self, step: int) -> bool:
        """Whether this rank wants a checkpoint after that step; what one wants, all do."""
        if self._steps is not None:
            return step % self._steps == 0
        return self._clock() - self._written_at >= EVERY_SECONDS

    def write(self, trainer: Trainer, history: History) -> None:
        """Write the state after the last step of `history`. Called by all ranks alike.

        Raises:
            LossNotFinite: a weight is not: nobody could go on from there.
            OSError: the disk refused.
        """
        began = time.monotonic()
        self.flush()
        _require_finite(trainer, step=len(history.losses))
        ranks = trainer.group.gather(_rank_state(trainer, history))
        weights, moments = dict(zip(trainer.parameter_names, trainer.parameters, strict=True)), _moments(trainer)
        if trainer.group.first:
            state = {"identity": self._identity, "facts": self.facts, "losses": history.losses, "ranks": ranks}
            state["scaler"] = trainer.scaler.state_dict()
            writers: dict[str, Callable[[Path], None]] = {
                "weights.safetensors": lambda path: _write_tensors(trainer, path, weights),
                "optimizer.safetensors": lambda path: _write_tensors(trainer, path, moments),
            }
            allocation = trainer.adapted.allocation
            if allocation is not None:
                state["rank_pattern"] = allocation.pattern()
                scores = {name: value.cpu() for name, value in allocation.scores().items()}
                writers["allocation.safetensors"] = lambda path: save_file(_separate(scores), path)
            written = checkpoint.save(
                self._roots[0],
                len(history.losses),
                {**writers, "state.json": lambda path: _write_json(path, state)},
                keep=self._keep,
                beat=PULSE.beat,
            )
            self._reports.checkpoint(
                written.step,
                size_bytes=written.size_bytes,
                manifest_digest=written.manifest_digest,
                oldest_step=written.oldest_step,
            )
            log.info(
                "checkpoint step=%d bytes=%d sha256=%s seconds=%.2f",
                written.step,
                written.size_bytes,
                written.manifest_digest,
                time.monotonic() - began,
            )
        elif trainer.adapted.sharding is not None:
            failpoint(f"trainer.giving-{len(history.losses)}")
            for _ in trainer.adapted.sharding.wholes([*weights.values(), *moments.values()]):
                pass
        self._kept_steps = [*self._kept_steps, len(history.losses)][-self._keep :]
        self._written_at = self._clock()

    def last_good(self, failed_step: int) -> str:
        """What is left of a training whose loss is not finite at a step, in words for the message. Rank 0 alone.

        The checkpoint from which that very step was made proves nothing: with an older one at hand it is removed, so
        that the newest that is kept, and stored, is one from which a further step had a finite loss.
        """
        if len(self._kept_steps) > 1 and self._kept_steps[-1] == failed_step - 1:
            checkpoint.remove(self._roots[0], self._kept_steps.pop())
        if not self._kept_steps:
            return "; there is no checkpoint of the steps before"
        step = self._kept_steps[-1]
        proven = ", and was good" if step < failed_step - 1 else ": the only one, and this step was made from it"
        return f"; the state after step {step} is kept as a checkpoint{self.place}{proven}"

    def find(self, *, first: bool) -> Checkpoint | None:
        """The newest one that is whole and of this very training; only rank 0 looks."""
        if not first:
            return None
        for found in checkpoint.usable(self._roots, self._pass_over):
            if checkpoint.read_state(found)["identity"] == self._identity:
                return found
            self._pass_over(found.path, "it is of other data, another model or another number of devices")
        if any(root.is_dir() for root in self._roots[1:]):
            self._reports.warning("CHECKPOINT_UNUSABLE", "no checkpoint can be used; training begins at step 0")
        return None

    def resume(self, trainer: Trainer) -> History:
        """Put the newest usable checkpoint's state into the trainer; the history until then, empty without one.

        Called by all ranks alike.
        """
        found = self.find(first=trainer.group.first)
        step = int(trainer.group.share(np.array([found.step if found else 0]) if trainer.group.first else None)[0])
        if step == 0:
            return History()
        self._kept_steps = [step]
        path = trainer.group.share(
            np.frombuffer(str(found.path).encode(), dtype=np.uint8) if found is not None else None
        )
        directory = path.tobytes().decode()
        return self._load(trainer, step, directory if self.here is None else self.here(directory))

    def _load(self, trainer: Trainer, step: int, directory: str) -> History:
        with torch.no_grad(), safe_open(f"{directory}/weights.safetensors", "pt") as weights:
            for name, parameter in zip(trainer.parameter_names, trainer.parameters, strict=True):
                _fill(trainer, parameter, weights, name)
        with torch.no_grad(), safe_open(f"{directory}/optimizer.safetensors", "pt") as moments:
            for key in moments.keys():  # noqa: SIM118 - it is no mapping
                index, _, name = key.partition(".")
                parameter = trainer.parameters[int(index)]
                state = trainer.optimizer.state[parameter]
                state[name] = (
                    torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)
                )
                _fill(trainer, state[name], moments, key)
        with open(f"{directory}/state.json", "rb") as stream:  # noqa: PTH123 - other ranks have only its name
            state = json.load(stream)
        self.facts = state["facts"]
        if trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(state["scaler"])
        if trainer.adapted.allocation is not None:
            scores = load_file(f"{directory}/allocation.safetensors")
            trainer.adapted.allocation.restore(scores, state["rank_pattern"])
        own = state["ranks"][trainer.group.rank]
        trainer.cost = PassCost(limit=own["limit"], overhead=trainer.cost.overhead)
        torch.set_rng_state(_tensor(own["random"]))
        if own["cuda_random"]:
            torch.cuda.set_rng_state(_tensor(own["cuda_random"]))
        return History(**own["history"], losses=state["losses"], resumed_from=step)

    def _pass_over(self, path: Path, why: str) -> None:
        self._reports.warning("CHECKPOINT_UNUSABLE", f"the checkpoint of step {int(path.name)} is passed over: {why}")


def identity(uid: str, examples: Sequence[Example], *, world_size: int, beginning: Sequence[torch.Tensor]) -> str:
    """What tells one training from another: its job, its tokens in their order, its ranks.

    Args:
        uid: the job's; its spec never changes.
        examples: all that it trains on.
        world_size: its ranks.
        beginning: the fresh adapter, where the base model was changed with it (PiSSA): made anew, it must be the same;
            or what ranks it has, where the data says so (EVA).
    """
    digest = sha256(f"{uid}/{world_size}/{len(examples)}".encode())
    for example in examples:
        digest.update(len(example).to_bytes(8, "big") + example.ids.tobytes() + example.trained.tobytes())
    for tensor in beginning:
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _require_finite(trainer: Trainer, *, step: int) -> None:
    """Rank 0 looks; of a sharded model each rank at its part, and whose is not finite ends them all."""
    if not trainer.group.first and trainer.adapted.sharding is None:
        return
    for name, parameter in zip(trainer.parameter_names, trainer.parameters, strict=True):
        if not torch.isfinite(trainer.adapted.local(parameter.detach())).all():
            raise LossNotFinite(
                f"tuning_parameters.learning_rate: after step {step} the weight {name} is not finite any more; lower "
                "the learning rate, warm up longer, or look for broken rows"
            )


def _rank_state(trainer: Trainer, history: History) -> dict[str, Any]:
    kept = asdict(history)
    for name in ("losses", "resumed_from", "first_epoch"):
        del kept[name]
    on_gpu = trainer.adapted.device.torch_device.type == "cuda"
    return {
        "history": kept,
        "limit": trainer.cost.limit,
        "random": _text(torch.get_rng_state()),
        "cuda_random": _text(torch.cuda.get_rng_state()) if on_gpu else "",
    }


def _moments(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The optimizer's state, by the parameter's number and the name that it has there."""
    return {
        f"{index}.{name}": value
        for index, parameter in enumerate(trainer.parameters)
        for name, value in trainer.optimizer.state[parameter].items()
    }


def _write_tensors(trainer: Trainer, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """On rank 0; of a sharded model the others give theirs in the same order."""
    if trainer.adapted.sharding is None:
        save_file(_separate({name: tensor.detach().cpu() for name, tensor in tensors.items()}), path)
        return
    described = [Described(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    write_tensors(path, described, trainer.adapted.sharding.wholes(tensors.values()))


def _fill(trainer: Trainer, target: torch.Tensor, file: Any, name: str) -> None:
    if trainer.adapted.sharding is None or not target.shape:
        target.copy_(file.get_tensor(name))
    else:
        trainer.adapted.sharding.fill(target, file.get_slice(name))


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As safetensors wants them: whole, and none a view of another."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, allow_nan=False), encoding="utf-8")


def _text(state: torch.Tensor) -> str:
    return b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(b64decode(text), dtype=np.uint8).copy())
