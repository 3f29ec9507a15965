"""AdaLoRA's two parts outside the model: the penalty in the loss, and the allocation after each step.

PEFT adds the penalty where the model computes the loss itself, and allocates where somebody calls it. Our loop does
neither by itself, and without them AdaLoRA silently is a LoRA whose ranks all stay (Zhang et al., arXiv 2303.10512).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT's allocator keeps from step to step, each by the weight's name."""


class Allocation:
    """The ranks of one AdaLoRA model while it trains.

    Args:
        model: the PEFT model. PEFT makes its bookkeeping (`ranknum`) trainable where it casts a bf16 model's adapter,
            though it neither saves nor loads it: here it stays as it is.
    """

    def __init__(self, model: Any) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._layers = [module for module in model.modules() if hasattr(module, "lora_E")]
        for layer in self._layers:
            layer.ranknum["default"].requires_grad_(False)

    def penalty(self) -> torch.Tensor:
        """How far the singular vectors are from orthogonal ones, weighted: to be added to the gradient once a step."""
        distances = [
            torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device))
            for product in self._products()
        ]
        weight: float = self._config.orth_reg_weight
        return weight * torch.stack(distances).mean()

    def _products(self) -> Iterator[torch.Tensor]:
        for layer in self._layers:
            right, left = layer.lora_A["default"], layer.lora_B["default"]
            yield right @ right.T
            yield left.T @ left

    def after_step(self, number: int) -> None:
        """Allocate anew, if it is time. To be called after the optimizer's step and before its gradients are cleared.

        The same on every rank, for all of them have the same weights and gradients.

        Args:
            number: the step's, from 1.
        """
        self._tuner.update_and_allocate(number)

    def scores(self) -> dict[str, torch.Tensor]:
        """How much each weight mattered so far, which the next allocation goes by; `restore` takes it back."""
        allocator = self._tuner.rankallocator
        return {f"{kind}/{name}": value for kind in _SCORES for name, value in getattr(allocator, kind).items()}

    def pattern(self) -> dict[str, list[bool]]:
        """What the last allocation left, by `lora_E`; empty before the first."""
        return dict(self._config.rank_pattern or {})

    def restore(self, scores: Mapping[str, torch.Tensor], pattern: dict[str, list[bool]]) -> None:
        """Go on from what `scores` and `pattern` were after some step; the weights come by themselves."""
        kept: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _SCORES}
        weights = dict(self._tuner.model.named_parameters())
        for key, value in scores.items():
            kind, _, name = key.partition("/")
            kept[kind][name] = value.to(weights[name].device)
        for kind, values in kept.items():
            setattr(self._tuner.rankallocator, kind, values)
        if pattern:
            self._config.rank_pattern = pattern

    def ranks(self) -> dict[str, int]:
        """What rank each module has now."""
        return {
            name.removeprefix("model."): int((module.lora_E["default"] != 0).sum())
            for name, module in self._tuner.named_modules()
            if hasattr(module, "lora_E")
        }
