"""Imports what a training needs, for a process that forks trainers (docs/adr/0024); importing this module is all of it.

What a library reads from the environment at its import is set before, as `isolation.py` has it for every trainer; what
differs between jobs comes later: devices when CUDA is first used, threads when the training begins.
"""

from __future__ import annotations

import importlib
import os
import sys

from agent.trainer.isolation import ENVIRONMENT, leave_out_libraries

#: The architectures that most jobs have; every other one is imported by its trainer, which takes some 20 ms.
ARCHITECTURES = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "smollm3",
    "olmo2",
    "granite",
    "falcon",
)
#: The trainer's own modules, and what they and the libraries import only when it is first needed.
MODULES = (
    "agent.trainer.audit",
    "agent.trainer.data.sharing",
    "agent.trainer.device",
    "agent.trainer.output",
    "agent.trainer.provenance",
    "agent.trainer.rank",
    "agent.trainer.rehearsal",
    "agent.trainer.resuming",
    "agent.trainer.separation",
    "agent.trainer.sharding",
    "agent.trainer.train",
    "agent.trainer.training",
    "agent.trainer.verdict",
    "numpy.ctypeslib",
    "numpy.ma",
    "peft.utils.transformers_weight_conversion",
    "torch.profiler._cupti_monitor",
    "transformers.models.gemma.tokenization_gemma",
    "transformers.models.gpt2.tokenization_gpt2",
    "transformers.models.llama.tokenization_llama",
    "transformers.models.qwen2.tokenization_qwen2",
)


def read_environment_again() -> None:
    """Tell OpenMP what it has read of the environment at its import. It then has threads: no fork after this."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said):
        sys.modules["torch"].set_num_threads(int(said))


def _preload() -> None:
    # numpy's BLAS makes a pool of threads at its import, which no fork would have; a training computes with torch's.
    os.environ.update(ENVIRONMENT, OMP_WAIT_POLICY="PASSIVE", OPENBLAS_NUM_THREADS="1")
    leave_out_libraries(quantizing=False)
    for module in (*MODULES, *(f"transformers.models.{name}.modeling_{name}" for name in ARCHITECTURES)):
        importlib.import_module(module)

    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    # It compiles a thousand patterns at its first use, and keeps them: 0.15 s of every start.
    get_checkpoint_conversion_mapping("llama")  # type: ignore[no-untyped-call]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError("an import has initialised CUDA, so nothing can be forked from this process")


_preload()
