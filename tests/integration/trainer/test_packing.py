"""Packed documents do not see each other, and noise on embeddings is each document's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from agent.trainer.assignment import parse
from agent.trainer.data.batches import collate, collate_rows
from agent.trainer.data.order import PassCost
from agent.trainer.data.tokens import Example
from agent.trainer.failures import ConfigInvalid
from agent.trainer.loss import summed_loss
from agent.trainer.neftune import EmbeddingNoise
from agent.trainer.separation import require_separation
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.trainer.model import AdaptedModel
    from tests.integration.trainer.attempts import Attempt

CPU = torch.device("cpu")


@pytest.fixture(params=["llama", "gpt2", "qwen2"])
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> AdaptedModel:
    return adapt(write_tiny_model(tmp_path / "model", architecture=request.param), request.param)


def adapt(directory: Path, architecture: str = "llama") -> AdaptedModel:
    from agent.trainer import model
    from agent.trainer.device import Device
    from agent.trainer.model_files import inspect_model

    modules = ["c_attn"] if architecture == "gpt2" else ["q_proj", "v_proj"]
    spec = {
        "base_model": {"model_name": str(directory)},
        "customization": {"method": "lora", "rank": 4, "precision": "fp32", "target_modules": modules},
        "datasets": [{"source": "file:///unused"}],
    }
    assignment = parse({"spec": spec})
    files = inspect_model(str(directory))
    place = Device(CPU, "cpu", PassCost(limit=10_000, overhead=0))
    base = model.load_base(files, assignment.customization, place)
    made = model.adapt(base, assignment, model.load_tokenizer(files), place)
    torch.manual_seed(3)
    for parameter in made.trainable:
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def documents(*lengths: int) -> list[Example]:
    generator = np.random.default_rng(1)
    made = []
    for length in lengths:
        trained = np.arange(length) >= length // 3
        trained[0] = False
        made.append(Example(generator.integers(3, 390, length).astype(np.int32), trained))
    return made


def losses_of(adapted: AdaptedModel, row: list[Example], forward: Callable[..., Any] | None = None) -> list[float]:
    """Each document's summed loss as it stands in one packed row."""
    batch = collate_rows([row], pad_id=adapted.pad_id, device=CPU)
    ends = np.cumsum([len(example) for example in row])
    document = np.searchsorted(ends, batch.positions.numpy(), side="right")
    made = []
    for number in range(len(row)):
        targets = batch.targets.clone()
        targets[:, torch.from_numpy(document != number)] = -100
        own = type(batch)(batch.ids, targets, batch.positions, batch.position_ids, batch.lengths)
        with torch.no_grad():
            made.append((forward or summed_loss)(adapted, own).item())
    return made


def contaminated_loss(adapted: AdaptedModel, batch: Any) -> torch.Tensor:
    """What one gets who packs, resets the positions, and gives a mask of ones as usual."""
    logits = adapted.model(
        input_ids=batch.ids,
        position_ids=batch.position_ids,
        attention_mask=torch.ones_like(batch.ids),
        use_cache=False,
    ).logits[:, batch.positions]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")


def test_each_packed_document_has_the_loss_that_it_has_alone(adapted: AdaptedModel):
    adapted.model.eval()
    row = documents(40, 7, 23, 2, 61)
    with torch.no_grad():
        alone = [summed_loss(adapted, collate([one], pad_id=adapted.pad_id, device=CPU)).item() for one in row]
    assert losses_of(adapted, row) == pytest.approx(alone, rel=1e-5)
    contaminated = losses_of(adapted, row, contaminated_loss)
    assert contaminated[0] == pytest.approx(alone[0], rel=1e-5)  # nothing stands before it
    apart = [abs(one - other) / other for one, other in zip(contaminated[1:], alone[1:], strict=True)]
    assert min(apart) > 1e-5  # every one of them would fail the test above
    assert max(apart) > 1e-2


def test_rows_of_unlike_length_in_one_pass_add_up_to_the_documents_alone(adapted: AdaptedModel):
    adapted.model.eval()
    rows = [documents(30, 12), documents(9), documents(5, 5, 5)]
    with torch.no_grad():
        alone = [summed_loss(adapted, collate([one], pad_id=adapted.pad_id, device=CPU)) for row in rows for one in row]
        together = summed_loss(adapted, collate_rows(rows, pad_id=adapted.pad_id, device=CPU))
    assert together.item() == pytest.approx(sum(alone).item(), rel=1e-5)


def test_a_document_s_last_token_does_not_predict_the_next_one_s_first():
    first, second = documents(4, 4)
    second.trained[:] = True
    batch = collate_rows([[first, second]], pad_id=0, device=CPU)
    assert 3 not in batch.positions.tolist()


def test_a_model_that_keeps_documents_apart_is_taken_as_it_was(adapted: AdaptedModel):
    before = torch.get_rng_state()
    require_separation(adapted)
    assert adapted.model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_makes_a_mask_of_its_own_is_refused(tiny_model: Path):
    adapted = adapt(tiny_model)

    def with_mask(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])}

    adapted.model.get_base_model().register_forward_pre_hook(with_mask, with_kwargs=True)
    with pytest.raises(ConfigInvalid, match=r"^tuning_parameters\.packing: .* would see each other"):
        require_separation(adapted)


def test_a_model_that_ignores_positions_is_refused(tiny_model: Path):
    adapted = adapt(tiny_model)

    def without(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "position_ids": None}

    adapted.model.get_base_model().register_forward_pre_hook(without, with_kwargs=True)
    with pytest.raises(ConfigInvalid, match=r"^tuning_parameters\.packing: .* would see each other"):
        require_separation(adapted)


ROWS = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 7)} for n in range(24)]


def test_a_packed_training_makes_the_steps_of_an_unpacked_one(attempt: Attempt):
    attempt.assign(rows=ROWS)
    assert attempt.run() == 0, attempt.reports[-1]
    unpacked = attempt.provenance
    (attempt.directory / "reports.jsonl").unlink()
    attempt.assign(rows=ROWS, tuning_parameters={"packing": True, "max_sequence_length": 128})
    assert attempt.run() == 0, attempt.reports[-1]
    packed = attempt.provenance
    assert packed["losses"]["steps"] == pytest.approx(unpacked["losses"]["steps"], rel=1e-4)
    assert packed["training"]["steps"] == unpacked["training"]["steps"] == 6
    # Examples and tokens are counted as if nothing were packed; only the padding is less.
    assert packed["training"]["tokens"] == unpacked["training"]["tokens"]
    assert packed["training"]["padded_tokens"] < unpacked["training"]["padded_tokens"]


def test_noise_is_within_each_document_s_own_bound_and_only_while_training(tiny_model: Path):
    adapted = adapt(tiny_model)
    embedding = adapted.model.get_base_model().get_input_embeddings()
    batch = collate_rows([documents(16, 4), documents(9)], pad_id=adapted.pad_id, device=CPU)
    plain = embedding(batch.ids)
    noise = EmbeddingNoise(adapted, alpha=5.0)
    noise.expect(batch)
    adapted.model.train()
    moved = (embedding(batch.ids) - plain).abs().amax(dim=2)
    width = plain.shape[2]
    for place, (row, start, length) in enumerate([(0, 0, 16), (0, 16, 4), (1, 0, 9)]):
        bound = 5.0 / (length * width) ** 0.5
        largest = moved[row, start : start + length].max().item()
        assert 0.8 * bound < largest <= bound * (1 + 1e-5), place
    adapted.model.eval()
    assert torch.equal(embedding(batch.ids), plain)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_noise_changes_the_training_and_no_noise_does_not(attempt: Attempt, method: str):
    losses = []
    for alpha in (None, 5):
        tuning = {"max_steps": 2} | ({"neftune_noise_alpha": alpha} if alpha else {})
        attempt.assign(tuning_parameters=tuning)
        path = attempt.directory / "assignment.json"
        document = json.loads(path.read_text())
        document["spec"]["customization"] = {"method": method, "precision": "fp32"}
        path.write_text(json.dumps(document))
        assert attempt.run() == 0, attempt.reports[-1]
        losses.append(attempt.provenance["losses"]["steps"])
        (attempt.directory / "reports.jsonl").unlink()
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
