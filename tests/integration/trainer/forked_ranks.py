"""Ranks as processes of their own, forked from one that has imported everything: they start in a tenth of a second.

Any of them can have little memory, as on a node whose devices are not alike, or die at a failpoint.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import agent.failpoints
from agent.trainer import assignment, training
from agent.trainer.reports import Reports, Unheard
from tests.integration.trainer.warm import CONTEXT, PRELOADED

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Tight:
    """A rank whose device is full where a pass of more than so many tokens, padding included, comes to a module."""

    rank: int
    tokens: int
    module: str = "Embedding"
    way: str = FORWARD


def train(
    directory: Path, *, ranks: int, tight: Tight | None = None, failpoint: str = "", seconds: float = 120.0
) -> list[dict[str, Any]]:
    """Train an attempt by that many ranks; what each found of its model and memory. It must come to its end.

    Args:
        directory: the attempt's.
        ranks: its world size.
        tight: which has little memory.
        failpoint: where rank 0 dies, and with it all of them; nothing is found then.
        seconds: how long it may take.
    """
    CONTEXT.set_forkserver_preload([*PRELOADED, __name__])
    processes = [CONTEXT.Process(target=_train, args=(str(directory), rank, tight, failpoint)) for rank in range(ranks)]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    while all(process.exitcode in {None, 0} for process in processes):
        running = [process.sentinel for process in processes if process.exitcode is None]
        if not running or not wait(running, end - time.monotonic()):
            break
    for process in processes:
        process.kill()
        process.join()
    if failpoint:
        assert not (directory / "output").exists()
        return []
    assert [process.exitcode for process in processes] == [0] * ranks
    return [json.loads((directory / f"found-{rank}").read_text()) for rank in range(ranks)]


def lead(directory: Path, *, failpoint: str = "") -> Any:
    """Start an attempt's leader, which forks its ranks; a process of multiprocessing.

    Args:
        directory: the attempt's.
        failpoint: where its ranks die.
    """
    CONTEXT.set_forkserver_preload([*PRELOADED, __name__])
    process = CONTEXT.Process(target=_lead, args=(str(directory), failpoint))
    process.start()
    return process


def _lead(directory: str, failpoint: str) -> None:
    import agent.trainer.preloading  # its ranks are forked from it then
    from agent.trainer.__main__ import main

    agent.failpoints._ARMED = frozenset(filter(None, [failpoint]))
    place = Path(directory) / "logs"
    place.mkdir(exist_ok=True)
    log = os.open(place / "rank-0.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit(main(directory))


def _train(directory: str, rank: int, tight: Tight | None, failpoint: str) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook, register_module_full_backward_pre_hook

    found: dict[str, Any] = {"refusals": 0}
    tokens = 0

    def look(module: torch.nn.Module, arguments: Any) -> None:
        nonlocal tokens
        if isinstance(module, torch.nn.Embedding):
            tokens = arguments[0].numel()
        elif "root" not in found:
            found.update(_described(module))
        refuse(FORWARD, module)

    def refuse(way: str, module: torch.nn.Module) -> None:
        if tight is None or (tight.rank, tight.way) != (rank, way) or tight.tokens >= tokens:
            return
        if type(module).__name__.endswith(tight.module):
            found["refusals"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")

    torch.set_num_threads(1)
    register_module_forward_pre_hook(look)
    if tight is not None and tight.way == BACKWARD:
        register_module_full_backward_pre_hook(lambda module, _gradient: refuse(BACKWARD, module))
    if rank == 0:
        agent.failpoints._ARMED = frozenset(filter(None, [failpoint]))
    place = Path(directory)
    (place / "logs").mkdir(exist_ok=True)
    log = os.open(place / "logs" / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    reports = Unheard() if rank else Reports(place)
    training.train_attempt(assignment.read_document(place), place, reports, rank=rank)
    (place / f"found-{rank}").write_text(json.dumps(found))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(0)


def _described(root: Any) -> dict[str, Any]:
    """What of a model's parameters lies on this rank between two passes, and what its modules are wrapped in."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    parameters = list(root.parameters())
    parts = [each.to_local() if isinstance(each, DTensor) else each for each in parameters]
    return {
        "root": type(root).__name__,
        "wrapped": [type(module).__name__ for module in root.modules() if isinstance(module, FSDPModule)],
        "whole_bytes": sum(each.numel() * each.element_size() for each in parameters),
        "held_bytes": sum(each.untyped_storage().nbytes() for each in parts),
    }
