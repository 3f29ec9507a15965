"""The quick ways through a LoRA layer and through the loss compute what PEFT's and PyTorch's own compute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from agent.trainer import entropy
from agent.trainer.fused import fuse
from trainplane.backends.memory import CPU_LOSS_NUMBERS

SMALL = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=101,
    attention_bias=True,
)
IDS = torch.arange(36).reshape(3, 12) % 101
SEVEN_TO_A_BLOCK = 14


def peft_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    torch.manual_seed(5)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": "all-linear", **changes})
    base = LlamaForCausalLM(SMALL).to(dtype)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def gradients(model: Any, *, checkpointing: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    torch.manual_seed(6)  # of dropout
    logits = model(input_ids=IDS, use_cache=False).logits.float()
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    return logits.detach(), {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"lora_dropout": 0.3}, {"bias": "lora_only"}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_is_peft_s_mathematics(changes: dict[str, Any], *, checkpointing: bool):
    of_peft, ours = peft_model(**changes), peft_model(**changes)
    assert fuse(ours) == SEVEN_TO_A_BLOCK
    logits, wanted = gradients(of_peft)
    fused_logits, found = gradients(ours, checkpointing=checkpointing)
    torch.testing.assert_close(fused_logits, logits)
    assert set(found) == set(wanted)
    assert len(wanted) >= 2 * SEVEN_TO_A_BLOCK
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_in_bf16_its_gradients_are_no_farther_from_fp32_s_than_peft_s():
    def from_exact(model: Any) -> float:
        _, found = gradients(model)
        return sum(((found[name] - exact[name]) ** 2).sum().item() for name in exact) ** 0.5

    rounded = peft_model(torch.bfloat16)
    _, exact = gradients(copy.deepcopy(rounded).float())
    ours = copy.deepcopy(rounded)
    assert fuse(ours) == SEVEN_TO_A_BLOCK
    assert from_exact(ours) < 1.2 * from_exact(rounded)
    assert all(parameter.dtype == torch.float32 for parameter in ours.parameters() if parameter.requires_grad)


def test_without_its_adapter_and_when_merged_it_is_peft_s_layer():
    of_peft, ours = peft_model().eval(), peft_model().eval()
    fuse(ours)
    with torch.no_grad():
        adapted = of_peft(input_ids=IDS).logits
        with of_peft.disable_adapter(), ours.disable_adapter():
            assert torch.equal(of_peft(input_ids=IDS).logits, ours(input_ids=IDS).logits)
        torch.testing.assert_close(ours.merge_and_unload()(input_ids=IDS).logits, adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_bias": True}], ids=str)
def test_layers_that_do_more_stay_peft_s(changes: dict[str, Any]):
    assert fuse(peft_model(**changes)) == 0


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_layers_that_lie_transposed_stay_peft_s():
    base = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50))
    assert fuse(get_peft_model(base, LoraConfig(target_modules=["c_attn"]))) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_loss_is_pytorch_s_whatever_the_pieces(dtype: torch.dtype):
    torch.manual_seed(1)
    vocabulary = CPU_LOSS_NUMBERS // 3  # three positions a piece
    logits = (4 * torch.randn(8, vocabulary)).to(dtype).requires_grad_()
    targets = torch.tensor([5, -100, 7, 0, vocabulary - 1, -100, 9, 11])
    wanted = functional.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="sum")
    (wanted / 6).backward()
    gradient, logits.grad = logits.grad, None
    found = entropy.summed_cross_entropy(logits, targets)
    (found / 6).backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
    rounding = {} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-6}
    torch.testing.assert_close(logits.grad, gradient, **rounding)
    assert not logits.grad[1].any()


def test_no_target_at_all_is_no_loss():
    logits = torch.randn(2, 5, requires_grad=True)
    entropy.summed_cross_entropy(logits, torch.tensor([-100, -100])).backward()
    assert not logits.grad.any()
