"""EVA: an adapter that begins where the layers' inputs vary most, found by passes over the data before training.

PEFT computes it (arXiv 2410.07170): an incremental SVD of what flows into each adapted layer, until its directions stay
the same, and of all layers' together the ranks that explain most. What is ours is the data that it sees: the first
examples of the first epoch, each position that is trained on, in passes with as many of them as an SVD needs.

Rank 0 computes, and the others take what it found: decompositions on several GPUs need not agree to the last bit, and
one rank more in one layer would be another model.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import initialize_lora_eva_weights
from peft.tuners.lora import get_eva_state_dict
from peft.tuners.tuners_utils import cast_adapter_dtype

from agent.trainer.data.order import epoch_order
from agent.trainer.failures import ConfigInvalid
from agent.trainer.model import logged_warnings
from agent.trainer.pulse import PULSE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.trainer.data.order import Portion
    from agent.trainer.data.tokens import Example
    from agent.trainer.group import Group
    from agent.trainer.model import AdaptedModel
    from agent.trainer.reports import Reports

EXAMPLES = 4096
"""Of the first epoch, that are gone round and round."""
MOST_PASSES = 2000
"""After which it is taken that nothing will settle; usual are ten to a hundred."""
FIELD = "customization.peft.config.init_lora_weights"

Inputs = dict[str, torch.Tensor]


def begins_from_data(adapted: AdaptedModel) -> bool:
    """Whether the adapter is one of EVA."""
    return not adapted.is_whole and getattr(adapted.model.peft_config["default"], "init_lora_weights", None) == "eva"


def begin(
    adapted: AdaptedModel,
    examples: Sequence[Example],
    portions: Sequence[Portion],
    *,
    seed: int,
    group: Group,
    reports: Reports,
) -> None:
    """Give the adapter its beginning, and its layers their ranks, if it is one of EVA. Called by all ranks alike.

    Args:
        adapted: fresh; changed in place, with other parameters than before.
        examples: to train on.
        portions: which are of which dataset.
        seed: of the order.
        group: the ranks.
        reports: told what is being done.

    Raises:
        ConfigInvalid: the data is too little for such ranks, or its directions do not settle.
    """
    if not begins_from_data(adapted):
        return
    reports.phase("PREPARING_DATA", "EVA: looking where the data varies most in each layer")
    found = _found(adapted, examples, portions, seed) if group.first else {}
    found = _shared(found, group)
    place = adapted.device.torch_device
    with logged_warnings():
        initialize_lora_eva_weights(
            adapted.model, eva_state_dict={name: vectors.to(place) for name, vectors in found.items()}
        )
    # Layers of another rank than before have been made anew, in the base model's type.
    cast_adapter_dtype(adapted.model, adapter_name="default", autocast_adapter_dtype=True)


def ranks(adapted: AdaptedModel) -> list[torch.Tensor]:
    """What tells an adapter of these ranks from one of others."""
    return [torch.tensor(parameter.shape) for parameter in adapted.trainable]


def _found(
    adapted: AdaptedModel, examples: Sequence[Example], portions: Sequence[Portion], seed: int
) -> dict[str, torch.Tensor]:
    """The directions of each layer by its name."""
    config = adapted.model.peft_config["default"]
    needed = _components(config)
    passes = _Passes(adapted, examples, list(islice(epoch_order(portions, seed=seed, epoch=0), EXAMPLES)), needed)

    def forward(model: Any, inputs: Inputs) -> None:
        passes.made += 1
        if passes.made > MOST_PASSES:
            raise ConfigInvalid(
                f"{FIELD}: what flows into the layers did not settle within {MOST_PASSES} passes; lower "
                "customization.peft.config.eva_config.tau, or begin otherwise"
            )
        more = {"logits_to_keep": 1} if adapted.selects_logits else {}
        with adapted.computing():
            model(input_ids=inputs["input_ids"], use_cache=False, **more)
        PULSE.beat()

    try:
        with logged_warnings(), torch.no_grad():
            found: dict[str, torch.Tensor] = get_eva_state_dict(
                adapted.model,
                passes,
                forward_fn=forward,
                prepare_model_inputs_fn=lambda inputs, _config: inputs["chosen"].nonzero(),
                gather_distributed_inputs=False,
                show_progress_bar=False,
            )
    except (ValueError, RuntimeError) as error:
        raise ConfigInvalid(
            f"{FIELD}: eva cannot begin {needed} directions a layer (rank times eva_config.rho): {str(error)[:300]}; "
            "lower customization.rank or rho, or begin otherwise"
        ) from error
    return found


def _components(config: Any) -> int:
    """The most directions that any layer may get."""
    most: int = round(config.r * config.eva_config.rho)
    return most


class _Passes:
    """What the model is shown, pass by pass; gone round by PEFT as often as it takes."""

    def __init__(self, adapted: AdaptedModel, examples: Sequence[Example], order: Sequence[int], needed: int) -> None:
        self.made = 0
        self._adapted = adapted
        self._examples = examples
        self._all = not adapted.model.peft_config["default"].eva_config.use_label_mask
        self._passes = self._cut(order, needed)
        if not self._passes:
            raise ConfigInvalid(
                f"{FIELD}: eva needs {needed} positions (rank times eva_config.rho) that are trained on, and the data "
                "has fewer; lower customization.rank or rho, or begin otherwise"
            )

    def _cut(self, order: Sequence[int], needed: int) -> list[list[int]]:
        """As many examples in each as give the positions needed, and as fit into a pass beside that."""
        made: list[list[int]] = []
        numbers: list[int] = []
        positions = longest = 0
        for number in order:
            example = self._examples[number]
            padded = max(longest, len(example)) * (len(numbers) + 1)
            if numbers and positions >= needed and padded > self._adapted.device.cost.limit:
                made.append(numbers)
                numbers, positions, longest = [], 0, 0
            numbers.append(number)
            positions += len(example) if self._all else example.trained_tokens
            longest = max(longest, len(example))
        return [*made, numbers] if positions >= needed else made

    def __len__(self) -> int:
        return len(self._passes)

    def __iter__(self) -> Iterator[Inputs]:
        for numbers in self._passes:
            examples = [self._examples[number] for number in numbers]
            shape = len(examples), max(map(len, examples))
            ids = np.full(shape, self._adapted.pad_id, dtype=np.int64)
            chosen = np.zeros(shape, dtype=np.bool_)
            for row, example in enumerate(examples):
                ids[row, : len(example)] = example.ids
                chosen[row, : len(example)] = True if self._all else example.trained
            yield {"input_ids": torch.from_numpy(ids), "chosen": torch.from_numpy(chosen)}


def _shared(found: dict[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor]:
    """Rank 0's, on every rank."""
    if group.size == 1:
        return found
    said = np.frombuffer(bytearray(json.dumps(list(found)).encode()), np.uint8) if group.first else None
    names = json.loads(group.share(said).tobytes())
    return {
        name: torch.from_numpy(group.share(found[name].float().cpu().numpy() if group.first else None))
        for name in names
    }
