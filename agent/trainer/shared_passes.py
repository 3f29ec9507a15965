"""Passes over a sharded model: as many on every rank, and none that another waits for in vain.

In such a pass every rank takes part in every collective, in one order: its *script*, which is learnt from a first, idle
pass. So a rank with fewer examples makes idle passes beside the others, and one whose device is full in the midst of a
pass goes on with the script's rest, computing nothing, until all can hear of it and try again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_api import AllGather, ReduceScatter

from agent.trainer.group import leaving_blame_to_the_leader
from agent.trainer.passes import Fit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.trainer.group import Group

GATHER, REDUCE = "gather", "reduce"

log = logging.getLogger("trainer")


class SharedPasses:
    """Of ranks that have a part of the model each.

    Args:
        root: the outermost sharded module.
        group: all ranks.
        device: this rank's.
    """

    def __init__(self, root: Any, group: Group, device: torch.device) -> None:
        self._root = root
        self._group = group
        self._device = device
        self._done: list[_Collective] = []
        self._scripts: dict[str, tuple[_Collective, ...]] = {}
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_custom_all_gather(_Gather(self._done))
                module.set_custom_reduce_scatter(_Reduce(self._done))

    def run(self, kind: str, count: int, make: Callable[[int], object], idle: Callable[[], object]) -> Fit:
        """See `passes.Passes`.

        Raises:
            torch.OutOfMemoryError: not even an idle pass fits, or the model's parts alone.
        """
        if kind not in self._scripts:
            self._learn(kind, idle)
        script, fits = self._scripts[kind], True
        for number in range(self._group.most(count)):
            self._done.clear()
            if fits:
                fits = self._fits(make, number) if number < count else self._fits(lambda _number: idle(), number)
            if script[: len(self._done)] != tuple(self._done) or (fits and len(self._done) < len(script)):
                raise RuntimeError(f"a pass to {kind} had other collectives than the one before it")
            self._take_part(script[len(self._done) :])
        # What an evaluation leaves behind would change the order of the next backward pass.
        self._root.reset_iter_state()
        return Fit(fits, self._group.most(int(not fits)) == 0)

    def _fits(self, make: Callable[[int], object], number: int) -> bool:
        try:
            make(number)
        except torch.OutOfMemoryError as error:
            log.warning("out of memory: %s", error)
        else:
            return True
        # Outside the handler: the error's traceback holds the tensors of the pass that did not fit.
        self._root.reset_iter_state()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return False

    def _learn(self, kind: str, idle: Callable[[], object]) -> None:
        """Make idle passes for the script of one, and leave no trace of them in the random numbers."""
        on_gpu = self._device.type == "cuda"
        drawn = torch.get_rng_state(), torch.cuda.get_rng_state() if on_gpu else None
        idle()
        # What passes of other kinds left behind shows once.
        self._root.reset_iter_state()
        self._done.clear()
        idle()
        self._scripts[kind] = tuple(self._done)
        torch.set_rng_state(drawn[0])
        if drawn[1] is not None:
            torch.cuda.set_rng_state(drawn[1])

    def _take_part(self, rest: Sequence[_Collective]) -> None:
        """Let the other ranks have their collectives. What is sent and received is nobody's."""
        for each in rest:
            theirs = torch.empty(each.input, dtype=each.dtype, device=self._device)
            ours = torch.empty(each.output, dtype=each.dtype, device=self._device)
            each.make(ours, theirs)


class _Collective(NamedTuple):
    kind: str
    output: int
    """Numbers received."""
    input: int
    dtype: torch.dtype
    group: Any

    def make(self, output: torch.Tensor, given: torch.Tensor) -> Any:
        with leaving_blame_to_the_leader():
            if self.kind == GATHER:
                return distributed.all_gather_single(output, given, group=self.group)
            return distributed.reduce_scatter_single(output, given, group=self.group)


class _Noted:
    """Makes FSDP's collectives, and notes them."""

    def __init__(self, done: list[_Collective]) -> None:
        self._done = done

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def _make(self, kind: str, output: torch.Tensor, given: torch.Tensor, group: Any) -> None:
        made = _Collective(kind, output.numel(), given.numel(), given.dtype, group)
        self._done.append(made)
        made.make(output, given)


class _Gather(_Noted, AllGather):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        async_op: bool = False,  # noqa: FBT001, FBT002, ARG002 - as FSDP has it; it waits by events
    ) -> None:
        self._make(GATHER, output_tensor, input_tensor, group)


class _Reduce(_Noted, ReduceScatter):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        op: Any,  # noqa: ARG002 - a sum: the divide factor is 1
        async_op: bool = False,  # noqa: FBT001, FBT002, ARG002
    ) -> None:
        self._make(REDUCE, output_tensor, input_tensor, group)
