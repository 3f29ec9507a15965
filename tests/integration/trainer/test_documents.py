"""Documents side by side in one row without padding: what each gives, and what it teaches, is what it is alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from agent.trainer import documents
from agent.trainer.data.batches import collate, collate_rows
from agent.trainer.failures import ConfigInvalid
from agent.trainer.loss import summed_loss
from agent.trainer.separation import settle
from tests.integration.trainer.test_packing import CPU, adapt, losses_of
from tests.integration.trainer.test_packing import documents as texts
from tests.support.tiny_models import ARCHITECTURES, MIXTURE, WINDOWED, write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.trainer.data.tokens import Example
    from agent.trainer.model import AdaptedModel

LENGTHS = (40, 7, 1, 23, 2, 61)


@pytest.fixture(params=[*ARCHITECTURES, MIXTURE, WINDOWED])
def adapted(request: pytest.FixtureRequest, tmp_path: Path) -> AdaptedModel:
    return adapt(write_tiny_model(tmp_path / "model", architecture=request.param), request.param)


def gradient(adapted: AdaptedModel, passes: Sequence[Sequence[Example]]) -> torch.Tensor:
    """Of the summed loss of documents, each pass one row; dropout, which GPT-2 has of its own, is off."""
    adapted.model.train()
    for module in adapted.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    adapted.model.zero_grad()
    for row in passes:
        summed_loss(adapted, collate_rows([row], pad_id=adapted.pad_id, device=CPU)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in adapted.trainable])  # type: ignore[union-attr]


def test_each_document_has_the_loss_and_the_gradient_that_it_has_alone(adapted: AdaptedModel):
    row = texts(*LENGTHS)
    adapted.model.eval()
    with torch.no_grad():
        alone = [summed_loss(adapted, collate([one], pad_id=adapted.pad_id, device=CPU)).item() for one in row]
    apart = gradient(adapted, [[one] for one in row])
    before = torch.get_rng_state()
    settled = settle(adapted)
    assert settled.attends_by_document
    assert settled.model.training
    assert torch.equal(torch.get_rng_state(), before)
    settled.model.eval()
    assert losses_of(settled, row) == pytest.approx(alone, rel=1e-5)
    for passes in ([row], [row[:2], row[2:]]):
        together = gradient(settled, passes)
        assert (together - apart).norm() <= 1e-5 * apart.norm()


def test_what_is_recomputed_in_the_backward_pass_sees_the_same_documents(tiny_model: Path):
    plain, recomputed = (settle(adapt(tiny_model)) for _ in range(2))
    recomputed.base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # Two passes whose documents differ: the second is computed before the first is recomputed.
    first, second = texts(*LENGTHS), texts(12, 30)

    def both(adapted: AdaptedModel) -> torch.Tensor:
        adapted.model.train()
        losses = [summed_loss(adapted, collate_rows([row], pad_id=0, device=CPU)) for row in (first, second)]
        torch.stack(losses).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in adapted.trainable])  # type: ignore[union-attr]

    wanted = both(plain)
    assert (both(recomputed) - wanted).norm() <= 1e-6 * wanted.norm()


def test_no_layer_gets_a_mask_of_the_whole_row(tiny_model: Path):
    settled = settle(adapt(tiny_model))
    given = []
    for name, module in settled.model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_pre_hook(
                lambda _module, _args, kwargs: given.append(kwargs["attention_mask"]), with_kwargs=True
            )
    summed_loss(settled, collate_rows([texts(*LENGTHS)], pad_id=0, device=CPU))
    assert [(mask.lengths, mask.masks, mask.dense) for mask in given] == [(list(LENGTHS), {}, None)] * 2


@pytest.mark.parametrize("lengths", [(40, 30, 90), (300, 280)], ids=["short", "long"])
def test_in_bf16_attention_is_as_near_to_fp32_s_as_transformers_own(lengths: tuple[int, ...]):
    torch.manual_seed(1)
    tokens = sum(lengths)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 2, True  # type: ignore[assignment]
    heads = [torch.randn(1, count, tokens, 16, dtype=torch.bfloat16) for count in (4, 2, 2)]
    into = torch.randn(1, tokens, 4, 16, dtype=torch.bfloat16)
    dense = torch.block_diag(*(torch.ones(length, length) for length in lengths)).tril().bool()[None, None]

    def made(mask: Any, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [each.to(dtype).requires_grad_() for each in heads]
        attended, _ = documents._attend(module, *leaves, mask, scaling=0.25)
        assert attended.dtype == dtype
        attended.backward(into.to(dtype))
        return [attended.detach(), *(each.grad for each in leaves)]  # type: ignore[list-item]

    exact = made(dense, torch.float32)
    mine = made(documents.Documents(list(lengths), {}), torch.bfloat16)
    theirs = made(dense, torch.bfloat16)
    for right, one, other in zip(exact, mine, theirs, strict=True):
        assert (one.float() - right).norm() <= 1.05 * (other.float() - right).norm()


def test_a_model_whose_attention_is_of_its_own_packs_rows(tiny_model: Path, caplog: pytest.LogCaptureFixture):
    adapted = adapt(tiny_model)
    adapted.base.set_attn_implementation("eager")
    with caplog.at_level(logging.INFO, logger="trainer"):
        settled = settle(adapted)
    assert not settled.attends_by_document
    assert adapted.base.config._attn_implementation == "eager"
    assert (
        "packing=rows: documents in masked rows, because the model's attention is not transformers' sdpa" in caplog.text
    )


def test_a_layer_that_gives_something_else_for_documents_lets_the_model_pack_rows(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
):
    adapted = adapt(tiny_model)

    def slightly(_module: Any, _args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        if isinstance(mask, documents.Documents) and len(mask.lengths) > 1:
            mask = documents.Documents([sum(mask.lengths)], {}, mask.dense)
        return _args, {**kwargs, "attention_mask": mask}

    adapted.base.model.layers[1].self_attn.register_forward_pre_hook(slightly, with_kwargs=True)
    with caplog.at_level(logging.INFO, logger="trainer"):
        settled = settle(adapted)
    assert not settled.attends_by_document
    assert adapted.base.config._attn_implementation == "sdpa"
    assert "packing=rows" in caplog.text


def test_a_model_that_takes_masks_apart_packs_rows(tiny_model: Path, caplog: pytest.LogCaptureFixture):
    adapted = adapt(tiny_model)

    def cut(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": None if mask is None else mask[:, :, :, :]}

    adapted.base.model.layers[0].self_attn.register_forward_pre_hook(cut, with_kwargs=True)
    with caplog.at_level(logging.INFO, logger="trainer"):
        assert not settle(adapted).attends_by_document
    assert "TypeError" in caplog.text


def test_documents_that_see_each_other_either_way_are_refused(tiny_model: Path):
    adapted = adapt(tiny_model)

    def without(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "position_ids": None}

    adapted.base.register_forward_pre_hook(without, with_kwargs=True)
    with pytest.raises(ConfigInvalid, match=r"^tuning_parameters\.packing: .* would see each other"):
        settle(adapted)
