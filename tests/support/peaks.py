"""How much memory training really takes: what the trainer's own tensors come to at their fullest, on a CPU.

Every allocation of torch's own allocator is counted as it is made and freed (temporaries inside kernels too), from
what lies there when training begins. That is what a GPU's `max_memory_allocated` says; resident memory would count the
allocator's habits and the libraries' code as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.shapes import shape_of
from tests.support.tiny_models import write_tokenizer
from trainplane.backends.peft import PEFT

if TYPE_CHECKING:
    from pathlib import Path


def write_small_model(directory: Path, *, vocabulary: int = 4096, blocks: int = 6, architecture: str = "llama") -> Path:
    """A model with random weights that is large enough to measure: some million parameters."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    torch.manual_seed(0)
    if architecture == "gpt2":
        config: Any = GPT2Config(n_embd=256, n_layer=blocks, n_head=8, n_positions=1024)
    else:
        config = LlamaConfig(
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=blocks,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=1024,
        )
    config.vocab_size = vocabulary
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


@dataclass(frozen=True)
class Case:
    """One training."""

    name: str
    customization: dict[str, Any]
    length: int = 128
    batch_size: int = 8
    tuning: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def spec(self, model: Path) -> dict[str, Any]:
        """The effective spec, as far as trainer and estimate read it."""
        return {
            "base_model": {"provider": "local", "model_name": str(model)},
            "customization": {"precision": "fp32", "peft": {"config": {}}, **self.customization},
            "datasets": [{"source": "file:///rows.jsonl", "split": "train"}],
            "resources": {"gpus": 0},
            "tuning_parameters": {
                "learning_rate": 1e-4,
                "batch_size": self.batch_size,
                "num_epochs": 1,
                "max_sequence_length": 1024,
                **self.tuning,
            },
        }


def peak_bytes(model: Path, case: Case, *, steps: int = 3) -> float:
    """The most that the tensors of this training came to."""
    import numpy as np
    import torch
    from torch.profiler import ProfilerActivity, profile

    from agent.trainer import model as models
    from agent.trainer.assignment import parse
    from agent.trainer.data.tokens import Example
    from agent.trainer.device import choose
    from agent.trainer.model_files import inspect_model
    from agent.trainer.schedule import schedule_for
    from agent.trainer.separation import settle
    from agent.trainer.train import Trainer

    spec = case.spec(model)
    spec["tuning_parameters"]["max_steps"] = steps
    document = {"uid": "01JTEST", "job_id": "j", "project": "default", "attempt": 1, "devices": [], "spec": spec}
    assignment, device = parse(document), choose("fp32", wants_gpu=False)
    base = models.load_base(inspect_model(model, called="small"), assignment.customization, device)
    adapted = models.adapt(base, assignment, models.load_tokenizer(inspect_model(model, called="small")), device)
    if assignment.tuning.packing:
        adapted = settle(adapted)
    draws = np.random.default_rng(0)
    everything = np.ones(case.length, dtype=np.bool_)
    everything[0] = False
    examples = [
        Example(draws.integers(1, 300, case.length, dtype=np.int32), everything) for _ in range(case.batch_size)
    ]
    there = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(adapted.model)}
    trainer = Trainer(adapted, examples, assignment.tuning, schedule_for(assignment.tuning, examples=len(examples)))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        trainer.run(lambda _step: None)
    now = most = 0
    for event in measured.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU:
            now += event.nbytes()
            most = max(most, now)
    return float(sum(there.values()) + most)


def estimated_bytes(model: Path, case: Case) -> float:
    """The same, estimated without torch from the model's headers."""
    row = {"bytes": 1, "rows": case.batch_size, "tokens": case.length, "longest": case.length, "share": 1.0}
    shape = shape_of(model)
    tensors = [[each.pattern, list(each.shape), each.count] for each in shape.tensors]
    seen = {"model": {"config": dict(shape.config), "tensors": tensors, "bytes": 1, "here": True}, "datasets": [row]}
    found = PEFT.estimate(case.spec(model), seen, on_gpu=False, tokens_per_second=0.0)
    assert found.gpu_memory_bytes is not None, found.unknown
    return found.gpu_memory_bytes


def _tensors(model: Any) -> list[Any]:
    found = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        while state is not None:
            found += [tensor for tensor in (state.absmax, state.code) if tensor is not None]
            state = getattr(state, "state2", None)
    return found
