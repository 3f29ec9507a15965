"""The ranks of a training as one of them sees them: sums and exchanges, which cost nothing where there is one rank.

Where they meet is `meeting.py`'s matter, and by which network interface they talk `isolation.py`'s.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import distributed

from agent.trainer.failures import PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

#: (rank, ranks) -> the store by which they find each other.
Meeting: TypeAlias = "Callable[[int, int], Any]"

TIMEOUT = timedelta(days=30)
"""Ranks wait for one that reads a large dataset; for one that has died nobody waits, for the leader ends them all."""

PATIENCE_SECONDS = 30.0
"""How long a rank that lost its connection to another waits for the leader, which knows why."""

APART_PATIENCE_SECONDS = 180.0
"""The same of ranks on several nodes: a node that is lost is noticed after `node_grace`, some 30 s."""

log = logging.getLogger("trainer")


@dataclass(slots=True)
class _Patience:
    apart: bool = False
    """Whether ranks of this process' group are on other nodes."""


_patience = _Patience()


@dataclass(frozen=True, slots=True)
class Group:
    """One rank's place among all of them. Every method is called by all ranks alike, in the same order."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; one exchange for tensors of one type.

        The sums are the same bits on every rank.
        """
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with leaving_blame_to_the_leader():
                distributed.all_reduce(flat)
            totals = torch.split(flat, [tensor.numel() for tensor in alike])
            for tensor, total in zip(alike, totals, strict=True):
                tensor.copy_(total.view_as(tensor))

    def most(self, number: int) -> int:
        """The greatest of the ranks' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        with leaving_blame_to_the_leader():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def take_from_first(self, tensors: Sequence[torch.Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        if self.size == 1:
            return
        with leaving_blame_to_the_leader():
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)

    def share(self, array: NDArray[Any] | None) -> NDArray[Any]:
        """Rank 0's array, on every rank; the others give None."""
        if array is not None and self.size == 1:
            return array
        facts = [None if array is None else (array.shape, array.dtype.str)]
        with leaving_blame_to_the_leader():
            distributed.broadcast_object_list(facts, src=0, device=torch.device("cpu"))
            shape, dtype = facts[0]  # type: ignore[misc]  # rank 0's, by now
            shared = np.empty(shape, np.dtype(dtype)) if array is None else np.ascontiguousarray(array)
            distributed.broadcast(torch.from_numpy(shared.reshape(-1).view(np.uint8)), src=0)
        return shared

    def tell(self, facts: Any) -> Any:
        """Rank 0's facts, on every rank; what the others give is nothing."""
        if self.size == 1:
            return facts
        said = [facts if self.first else None]
        with leaving_blame_to_the_leader():
            distributed.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        return said[0]

    def gather(self, facts: Any) -> list[Any]:
        """Every rank's facts in the order of the ranks, on rank 0; on the others nothing."""
        if self.size == 1:
            return [facts]
        gathered: list[Any] | None = [None] * self.size if self.first else None
        with leaving_blame_to_the_leader():
            distributed.gather_object(facts, gathered, dst=0)
        return gathered or []


ALONE = Group()


def join(meet: Meeting, *, rank: int, size: int, cuda: bool, apart: bool = False) -> Group:
    """Meet the other ranks.

    Args:
        meet: gives the store by which they find each other (`meeting.py`).
        rank: this one's number.
        size: how many there are.
        cuda: whether tensors are on GPUs.
        apart: whether some are on other nodes.
    """
    if size == 1:
        return ALONE
    _patience.apart = apart
    store = meet(rank, size)
    store.set_timeout(TIMEOUT)
    with leaving_blame_to_the_leader():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
        )
    return Group(rank, size)


@contextmanager
def leaving_blame_to_the_leader() -> Iterator[None]:
    """A connection breaks when the rank at its other end dies: that rank's end is the news, not this one's error."""
    try:
        yield
    except RuntimeError as error:
        log.warning("lost a rank: %s", error)
        threading.Event().wait(APART_PATIENCE_SECONDS if _patience.apart else PATIENCE_SECONDS)
        if _patience.apart:
            raise PeerLost(f"the connection to another node's ranks broke: {error}") from error
        raise
