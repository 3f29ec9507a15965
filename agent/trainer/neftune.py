"""NEFTune (Jain et al. 2023, arXiv:2310.05914): uniform noise on the embeddings of the input while training.

Its bound is alpha / sqrt(L d), with L the tokens of the *example* and d the embedding's width: neither padding, which
the paper's code counts in, nor what else is packed into the row changes an example's noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from agent.trainer.data.batches import MicroBatch
    from agent.trainer.model import AdaptedModel


class EmbeddingNoise:
    """Noise on what a model's input embedding gives, in training mode only; drawn from torch's own generator.

    Args:
        adapted: the model; a hook is put on its embedding for good.
        alpha: the paper's; 0 adds nothing.
    """

    def __init__(self, adapted: AdaptedModel, alpha: float) -> None:
        self._alpha = alpha
        self._lengths: torch.Tensor | None = None
        if alpha:
            adapted.base.get_input_embeddings().register_forward_hook(self._add)

    def expect(self, batch: MicroBatch) -> None:
        """Say what the next pass goes over."""
        self._lengths = batch.lengths

    def _add(self, module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor | None:
        lengths = self._lengths
        if not module.training or lengths is None or output.shape[:2] != lengths.shape:
            return None  # evaluation, or the embedding of something that is no input
        bound = self._alpha / (lengths * output.shape[2]).sqrt()
        noise = torch.rand_like(output, dtype=torch.float32) * 2 - 1
        return output + (noise * bound[:, :, None]).to(output.dtype)
