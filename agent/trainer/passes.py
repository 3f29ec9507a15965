"""The passes of a step or of an evaluation, as a rank makes them that has the whole model."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from agent.trainer.data.tokens import Example

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE = Example(np.zeros(2, dtype=np.int32), np.ones(2, dtype=np.bool_))
"""What an idle pass is made over."""

log = logging.getLogger("trainer")


class Fit(NamedTuple):
    """Whether passes fitted into memory; where they did not, their results are of no use."""

    own: bool
    """This rank's."""
    all: bool
    """Every rank's whose passes depend on this one's."""


class Passes(Protocol):
    """How a rank makes its passes."""

    def run(self, kind: str, count: int, make: Callable[[int], object], idle: Callable[[], object]) -> Fit:
        """Make this rank's passes, and idle ones until the others have made theirs, should that be needed.

        Args:
            kind: passes of one kind have the same collectives: `train`, `evaluate`.
            count: how many this rank has.
            make: makes one of them, by its number from 0.
            idle: makes a pass that changes nothing.
        """


class OwnPasses:
    """Of a rank that has the whole model: what the others do is nothing to it."""

    def run(self, _kind: str, count: int, make: Callable[[int], object], _idle: Callable[[], object]) -> Fit:
        """See `Passes`."""
        try:
            for number in range(count):
                make(number)
        except torch.OutOfMemoryError as error:
            log.warning("out of memory: %s", error)
            return Fit(own=False, all=False)
        return Fit(own=True, all=True)
