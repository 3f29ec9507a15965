"""Ranks as processes of their own, of which one has little memory: as on a node whose devices are not alike."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import agent.trainer.training  # imported for the processes forked later
from agent.trainer import assignment
from agent.trainer.reports import Reports, Unheard
from tests.integration.trainer.warm import CONTEXT, PRELOADED


def train(directory: Path, *, ranks: int, tight: int, tokens: int, seconds: float = 120.0) -> list[int]:
    """Train an attempt by that many ranks; how often each ran out of memory.

    Args:
        directory: the attempt's.
        ranks: its world size.
        tight: the rank whose device is full above so many `tokens` a pass.
        tokens: padding included.
        seconds: how long it may take.
    """
    CONTEXT.set_forkserver_preload([*PRELOADED, __name__])
    processes = [
        CONTEXT.Process(target=_train, args=(str(directory), rank, tokens if rank == tight else sys.maxsize))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    return [int((directory / f"refusals-{rank}").read_text()) for rank in range(ranks)]


def _train(directory: str, rank: int, tokens: int) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    refusals = 0

    def refuse(module: torch.nn.Module, arguments: Any) -> None:
        nonlocal refusals
        if isinstance(module, torch.nn.Embedding) and arguments[0].numel() > tokens:
            refusals += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    torch.set_num_threads(1)
    register_module_forward_pre_hook(refuse)
    place = Path(directory)
    reports = Unheard() if rank else Reports(place)
    agent.trainer.training.train_attempt(assignment.read_document(place), place, reports, rank=rank)
    (place / f"refusals-{rank}").write_text(str(refusals))
    os._exit(0)
