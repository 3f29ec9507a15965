"""Trainings in processes that are forked from one which has imported everything and computed nothing.

A start takes a tenth of a second instead of several, so that a test can kill many. The forked process is a trainer
process in all else: it runs the trainer's own main, and may be killed anywhere.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agent.trainer.training  # imported for the processes forked later, as the next ones
import agent.trainer.verdict  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerProcess

ROOT = Path(__file__).parents[3]
CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = [
    "tests.integration.trainer.warm",
    "agent.trainer.train",
    "agent.trainer.output",
    "agent.trainer.provenance",
    "agent.trainer.resuming",
    "transformers.models.llama.modeling_llama",
]


def train(directory: Path, *, failpoint: str = "", seconds: float = 120.0) -> int:
    """Train an attempt in a process of its own; its exit status, -9 after SIGKILL.

    Args:
        directory: the attempt's.
        failpoint: where it is to die; as `TRAINPLANE_FAILPOINT`.
        seconds: how long it may take.
    """
    process = begin(directory, failpoint=failpoint)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"the training in {directory} was not over after {seconds} s")
    return process.exitcode


def begin(directory: Path, *, failpoint: str = "") -> ForkServerProcess:
    """Begin to train an attempt, as `train` does."""
    return beside(_train, str(directory), failpoint)


def beside(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Begin something in a process of its own that has imported what trainers need."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def _train(directory: str, failpoint: str) -> None:
    import torch

    import agent.failpoints
    from agent.trainer.__main__ import main

    os.chdir(directory)
    log = os.open("rank-0.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    # For the ranks, which are processes of their own.
    os.environ.update(TRAINPLANE_FAILPOINT=failpoint, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="2")
    agent.failpoints._ARMED = frozenset(filter(None, [failpoint]))
    torch.set_num_threads(1)
    sys.exit(main(directory))
