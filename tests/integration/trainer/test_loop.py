"""The arithmetic of a step: what must not depend on how an effective batch is cut, padded or recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agent.trainer.assignment import parse
from agent.trainer.data.order import PassCost
from agent.trainer.data.tokens import Example
from agent.trainer.failures import LossNotFinite, OutOfGpuMemory
from agent.trainer.reports import Reports

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

LENGTHS = (5, 40, 17, 9, 31, 22, 8, 40)
WHOLE = PassCost(limit=100_000, overhead=100_000)
ONE_BY_ONE = PassCost(limit=1, overhead=0)


def examples() -> list[Example]:
    """Ragged, with prompts that are not trained on: micro-batches of very different weight."""
    generator = np.random.default_rng(1)
    made = []
    for length in LENGTHS:
        trained = np.arange(length) >= length // 3
        trained[0] = False
        made.append(Example(generator.integers(3, 390, length).astype(np.int32), trained))
    return made


@pytest.fixture
def make_trainer(tiny_model: Path) -> Callable[..., Any]:
    def make(*, cost: PassCost = WHOLE, dropout: float = 0.0, **tuning: Any) -> Any:
        import torch

        from agent.trainer import model
        from agent.trainer.device import Device
        from agent.trainer.model_files import inspect_model
        from agent.trainer.schedule import schedule_for
        from agent.trainer.train import Trainer

        spec = {
            "base_model": {"model_name": str(tiny_model)},
            "customization": {"method": "lora", "rank": 4, "precision": "fp32", "lora_dropout": dropout},
            "datasets": [{"source": "file:///unused"}],
            "tuning_parameters": {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-2, **tuning},
        }
        assignment = parse({"spec": spec})
        files = inspect_model(str(tiny_model))
        place = Device(torch.device("cpu"), "cpu", cost)
        base = model.load_base(files, assignment.customization, place)
        adapted = model.adapt(base, assignment, model.load_tokenizer(files), place)
        return Trainer(adapted, examples(), assignment.tuning, schedule_for(assignment.tuning, examples=8))

    return make


def gradient(trainer: Any) -> list[torch.Tensor]:
    """Of the first effective batch, with both LoRA matrices away from zero so that every one has a gradient."""
    import torch

    torch.manual_seed(3)
    for parameter in trainer.parameters:
        torch.nn.init.normal_(parameter, std=0.05)
    trainer.adapted.model.train()
    batch = trainer.examples
    trainer._gradient(batch, sum(example.trained_tokens for example in batch))
    return [parameter.grad.clone() for parameter in trainer.parameters]


def assert_alike(left: list[torch.Tensor], right: list[torch.Tensor], *, relative: float = 1e-4) -> None:
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() <= relative * one.norm()


@pytest.mark.parametrize(
    "cost",
    [ONE_BY_ONE, PassCost(limit=64, overhead=8), PassCost(limit=120, overhead=0)],
    ids=["one by one", "64", "120"],
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(make_trainer: Callable[..., Any], cost: PassCost):
    assert_alike(gradient(make_trainer(cost=WHOLE)), gradient(make_trainer(cost=cost)))


def test_the_loss_is_the_mean_over_all_trained_tokens(make_trainer: Callable[..., Any]):
    """Against transformers' own loss, example by example: a mean of means would be something else."""
    import torch

    trainer = make_trainer(cost=WHOLE)
    total, tokens, means = 0.0, 0, []
    trainer.adapted.model.eval()
    for example in trainer.examples:
        ids = torch.from_numpy(example.ids.astype(np.int64))[None]
        labels = torch.where(torch.from_numpy(example.trained)[None], ids, -100)
        with torch.no_grad():
            mean = trainer.adapted.model(input_ids=ids, labels=labels).loss.item()
        means.append(mean)
        total += mean * example.trained_tokens
        tokens += example.trained_tokens
    _, loss, _ = trainer._gradient(trainer.examples, tokens)
    assert loss == pytest.approx(total / tokens, rel=1e-5)
    assert loss != pytest.approx(sum(means) / len(means), rel=1e-4)


def test_whole_trainings_agree_however_the_batches_are_cut(make_trainer: Callable[..., Any]):
    losses = [make_trainer(cost=cost).run(lambda _step: None).losses for cost in (WHOLE, ONE_BY_ONE)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_gradient_checkpointing_gives_the_same_gradient(make_trainer: Callable[..., Any]):
    plain, recomputed = make_trainer(), make_trainer(gradient_checkpointing=True)
    layers = [
        module for module in recomputed.adapted.model.modules() if getattr(module, "gradient_checkpointing", False)
    ]
    assert len(layers) >= 2, "checkpointing is really on"
    assert_alike(gradient(plain), gradient(recomputed), relative=1e-6)


def test_gradient_checkpointing_recomputes_the_same_dropout(make_trainer: Callable[..., Any]):
    assert_alike(
        gradient(make_trainer(dropout=0.3)),
        gradient(make_trainer(dropout=0.3, gradient_checkpointing=True)),
        relative=1e-6,
    )


def test_padding_does_not_change_an_example_s_loss(make_trainer: Callable[..., Any]):
    import torch

    from agent.trainer.data.batches import collate
    from agent.trainer.loss import summed_loss

    trainer = make_trainer()
    trainer.adapted.model.eval()

    def loss(chosen: list[Example], pad_id: int) -> float:
        with torch.no_grad():
            return summed_loss(trainer.adapted, collate(chosen, pad_id=pad_id, device=torch.device("cpu"))).item()

    alone = [loss([example], 0) for example in trainer.examples]
    assert loss(trainer.examples, 0) == pytest.approx(sum(alone), rel=1e-5)
    assert loss(trainer.examples, 7) == pytest.approx(sum(alone), rel=1e-5)


def test_clipping_bounds_the_step_but_not_the_norm_that_is_reported(make_trainer: Callable[..., Any]):
    steps: list[Any] = []
    make_trainer(max_grad_norm=1e-3, max_steps=1).run(steps.append)
    free: list[Any] = []
    make_trainer(max_grad_norm=0, max_steps=1).run(free.append)
    assert steps[0].grad_norm == pytest.approx(free[0].grad_norm, rel=1e-6)
    assert steps[0].grad_norm > 1e-3


def test_weight_decay_reaches_the_optimizer(make_trainer: Callable[..., Any]):
    plain, decayed = make_trainer(), make_trainer(weight_decay=0.5)
    for trainer in (plain, decayed):
        trainer.run(lambda _step: None)
    assert sum(p.norm() for p in decayed.parameters) < sum(p.norm() for p in plain.parameters)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(make_trainer: Callable[..., Any], value: float):
    trainer = make_trainer()
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    trainer.adapted.model.get_base_model().lm_head.register_forward_hook(lambda _module, _args, output: output * value)
    with pytest.raises(LossNotFinite, match="at step 1 "):
        trainer.run(lambda _step: None)
    assert all((old == new).all() for old, new in zip(before, trainer.parameters, strict=True))


def test_a_gradient_that_is_not_finite_stops_too(make_trainer: Callable[..., Any]):
    trainer = make_trainer()
    trainer.parameters[0].register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(LossNotFinite, match="norm"):
        trainer.run(lambda _step: None)


def test_weights_that_are_not_finite_are_never_kept(make_trainer: Callable[..., Any], tmp_path: Path):
    from agent.trainer.resuming import Checkpointing

    trainer = make_trainer(max_steps=6)
    checkpoints = Checkpointing([tmp_path / "checkpoints"], "x", steps=2, keep=None, reports=Reports(tmp_path))

    def spoil(step: Any) -> None:
        if step.number == 4:
            trainer.parameters[1].data[0, 0] = float("inf")

    said = r"after step 4 the weight \S+ is not finite any more; .*; the state after step 2 is kept as a checkpoint, and was good"
    with pytest.raises(LossNotFinite, match=said):
        trainer.run(spoil, checkpoints)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000002"]


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_effective_one(make_trainer: Callable[..., Any]):
    import torch

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    roomy, tight = make_trainer(), make_trainer()
    tight.adapted.model.register_forward_pre_hook(refuse, with_kwargs=True)
    steps: list[Any] = []
    history = tight.run(steps.append)
    assert tight.cost.limit <= 100
    assert steps[0].micro_batches > 1
    assert steps[0].halved.tokens > 100 >= steps[0].halved.limit == tight.cost.limit
    assert [step.halved for step in steps[1:]] == [None] * len(steps[1:])
    assert history.losses == pytest.approx(roomy.run(lambda _step: None).losses, rel=1e-4)


def test_running_out_of_memory_while_evaluating_halves_the_passes_and_keeps_the_loss(make_trainer: Callable[..., Any]):
    import torch

    from agent.trainer.loss import mean_loss

    refused = []

    def refuse(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > 60:
            refused.append(kwargs["input_ids"].numel())
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = make_trainer()
    roomy = mean_loss(trainer.adapted, trainer.examples, batch_size=8)
    trainer.adapted.model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert mean_loss(trainer.adapted, trainer.examples, batch_size=8) == pytest.approx(roomy, rel=1e-5)
    assert refused


def test_an_example_that_does_not_fit_alone_ends_the_training(make_trainer: Callable[..., Any]):
    import torch

    def refuse(_module: Any, _args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer = make_trainer()
    trainer.adapted.model.register_forward_pre_hook(refuse)
    with pytest.raises(OutOfGpuMemory, match=r"tuning_parameters\.max_sequence_length"):
        trainer.run(lambda _step: None)
