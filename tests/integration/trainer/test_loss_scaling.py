"""fp16's loss scaling, in fp32 on a CPU: the scale changes nothing but what would have been lost without it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.trainer.assignment import parse
from agent.trainer.data.tokens import Example
from agent.trainer.failures import LossNotFinite
from agent.trainer.history import History
from agent.trainer.reports import Reports
from agent.trainer.resuming import Checkpointing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def make_trainer(tiny_model: Path) -> Callable[..., Any]:
    def make(*, scaled: bool = True, steps: int = 6, method: str = "lora") -> Any:
        import torch

        from agent.trainer import model
        from agent.trainer.device import choose
        from agent.trainer.model_files import inspect_model
        from agent.trainer.schedule import schedule_for
        from agent.trainer.train import Trainer

        spec = {
            "base_model": {"model_name": str(tiny_model)},
            "customization": {"method": method, "rank": 4, "precision": "fp32"},
            "datasets": [{"source": "file:///unused"}],
            "tuning_parameters": {"batch_size": 4, "max_steps": steps, "learning_rate": 1e-2},
        }
        assignment = parse({"spec": spec})
        files = inspect_model(str(tiny_model))
        place = choose("fp32", wants_gpu=False)
        base = model.load_base(files, assignment.customization, place)
        adapted = model.adapt(base, assignment, model.load_tokenizer(files), place, total_steps=steps)
        generator = np.random.default_rng(1)
        rows = [Example(generator.integers(3, 390, 12).astype(np.int32), np.arange(12) > 0) for _ in range(8)]
        torch.manual_seed(0)
        schedule = schedule_for(assignment.tuning, examples=8)
        return Trainer(replace(adapted, scales_loss=scaled), rows, assignment.tuning, schedule)

    return make


def weights(trainer: Any) -> list[Any]:
    return [parameter.detach().clone() for parameter in trainer.parameters]


def overflow(trainer: Any, steps: int) -> None:
    """Let the first steps' gradients be too large; a step is one pass here."""
    passes = iter(range(1, 1000))
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf if next(passes) <= steps else gradient)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_a_scale_that_is_a_power_of_two_changes_no_bit(make_trainer: Callable[..., Any], method: str):
    import torch

    plain, scaled = make_trainer(scaled=False, method=method), make_trainer(method=method)
    assert plain.run(lambda _: None).losses == scaled.run(lambda _: None).losses
    assert scaled.scaler.get_scale() == 65536
    assert all(map(torch.equal, weights(plain), weights(scaled)))


def test_a_step_whose_gradient_is_too_large_is_skipped_and_counted(make_trainer: Callable[..., Any]):
    import torch

    trainer = make_trainer(steps=10)
    overflow(trainer, 3)
    before, seen = weights(trainer), []

    def on_step(step: Any) -> None:
        seen.append((step.skipped, step.grad_norm, all(map(torch.equal, before, weights(trainer)))))

    history = trainer.run(on_step)
    assert history.skipped_steps == 3
    assert seen[:3] == [(True, 0.0, True)] * 3
    assert all(not skip and norm > 0 and not same for skip, norm, same in seen[3:])
    assert trainer.scaler.get_scale() == 65536 / 2**3
    assert all(torch.isfinite(each).all() for each in weights(trainer))
    # a skipped step leaves the optimizer's own count alone, too
    counts = {float(state["step"]) for state in trainer.optimizer.state.values()}
    assert counts == {7.0}


def test_a_gradient_that_no_scale_makes_finite_ends_the_training(make_trainer: Callable[..., Any]):
    import torch

    trainer = make_trainer()
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trainer.parameters[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(LossNotFinite, match=r"at step 4 .* norm nan; .* or ask for customization.precision bf16"):
        trainer.run(lambda _: None)


def test_the_scale_goes_on_from_a_checkpoint(make_trainer: Callable[..., Any], tmp_path: Path):
    import torch

    def checkpoints(keep: str) -> Checkpointing:
        (tmp_path / keep).mkdir(exist_ok=True)
        return Checkpointing([tmp_path / keep], "the same", steps=4, keep=1, reports=Reports(tmp_path))

    whole = make_trainer(steps=8)
    whole.scaler = torch.amp.GradScaler("cpu", growth_interval=3)
    overflow(whole, 2)
    told = whole.run(lambda _: None, checkpoints("kept"))
    again = make_trainer(steps=8)
    at = checkpoints("kept")
    history = at.resume(again)
    assert history.resumed_from == 4
    assert history.skipped_steps == told.skipped_steps == 2
    assert again.scaler.get_scale() == 65536 / 2**2
    assert again.run(lambda _: None, None, history).losses == told.losses
    assert again.scaler.state_dict() == whole.scaler.state_dict()
    assert all(map(torch.equal, weights(whole), weights(again)))


def test_without_fp16_nothing_is_scaled(make_trainer: Callable[..., Any]):
    trainer = make_trainer(scaled=False)
    assert not trainer.scaler.is_enabled()
    assert isinstance(trainer.run(lambda _: None), History)
