"""Loads the base model and puts the adapter into it.

bf16, fp16: the base weights are so, and frozen; the adapter is fp32, as PEFT's `autocast_adapter_dtype` has it,
because a step of learning rate x gradient is mostly below what bf16 can add to a weight (8 bits of mantissa). A method
that trains weights of the base itself has those in fp32 for the same reason, and computes under autocast.
Norms, softmax and the loss are fp32 inside the models and in `loss.py`.
"""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import get_peft_model
from peft.utils.other import ModulesToSaveWrapper
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from agent.trainer.adalora import Allocation
from agent.trainer.customization import ALL_LINEAR
from agent.trainer.failures import ConfigInvalid, ModelFormatUnsupported
from agent.trainer.fused import fuse
from agent.trainer.layers import target_modules, within
from agent.trainer.methods import Situation, peft_configuration
from agent.trainer.passes import OwnPasses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from agent.trainer.assignment import Assignment
    from agent.trainer.customization import Customization
    from agent.trainer.data.tokens import TokenCounts
    from agent.trainer.device import Device
    from agent.trainer.model_files import ModelFiles
    from agent.trainer.passes import Passes
    from agent.trainer.sharding import Sharding

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MIN_LENGTH = 8
"""Tokens; as in the spec's bounds of `max_sequence_length`."""
LIBRARY_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)
ANOTHER_MODEL = "fetch it anew, or name a language model of an architecture that transformers knows"
ERROR_LIMIT = 600
"""Characters of a library's error that go into a message."""

log = logging.getLogger("trainer")


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """A model on its device with what is trained in it, and what the rest of the training has to know of it."""

    model: Any
    """A PEFT model; with method `full` the base model itself."""
    device: Device
    target_modules: tuple[str, ...]
    """What the adapter goes into: names as PEFT takes them. With `full`: the parameters, if not all are trained."""
    selects_logits: bool
    """Whether its `forward` takes `logits_to_keep`, so that logits nobody needs are not computed."""
    pad_id: int
    parameters: int
    """Of the base model, whatever of it is trained; quantized ones counted as what they stand for."""
    quantization: dict[str, Any] | None = None
    """What of the base model was quantized, and how; None: nothing."""
    moves_base: bool = False
    """Whether the adapter's beginning was taken out of the base weights."""
    leading_logits: int = 0
    """Virtual tokens that stand before the text's own in what the model gives."""
    autocast: torch.dtype | None = None
    """What is computed in where it is not the weights' own type."""
    allocation: Allocation | None = None
    """AdaLoRA's."""
    scales_loss: bool = False
    """Whether gradients go through fp16, whose least number is too large for many of them."""
    sharding: Sharding | None = None
    """None: this rank has the whole model."""
    attends_by_document: bool = False
    """Whether examples side by side in one row cost no more than apart (`documents.py`); settled before training."""

    @property
    def base(self) -> Any:
        """The base model, with the adapter's layers in it."""
        return self.model if self.is_whole else self.model.get_base_model()

    @property
    def is_whole(self) -> bool:
        """Whether what is trained is the model, not an adapter."""
        return not hasattr(self.model, "peft_config")

    def computing(self) -> AbstractContextManager[Any]:
        """Inside it, a forward pass is computed in the job's precision."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.torch_device.type, self.autocast)

    def evaluating(self) -> AbstractContextManager[Any]:
        """Inside it, nothing is kept for gradients. What is gathered in inference mode could not be trained with."""
        return torch.no_grad() if self.sharding else torch.inference_mode()

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """What of a parameter is on this rank."""
        return self.sharding.local(tensor) if self.sharding else tensor

    @property
    def passes(self) -> Passes:
        """How passes over it are made."""
        return self.sharding.passes if self.sharding else OwnPasses()

    @property
    def trainable(self) -> list[torch.nn.Parameter]:
        """The parameters that move."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def trainable_count(self) -> int:
        """How many numbers move."""
        return sum(parameter.numel() for parameter in self.trainable)


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's own tokenizer.

    Raises:
        ModelFormatUnsupported: there is none that can be loaded, or none that knows the offsets of its tokens.
    """
    with Blaming("its tokenizer", "put the tokenizer.json that it was trained with beside it"):
        tokenizer = AutoTokenizer.from_pretrained(str(files.directory), trust_remote_code=False, local_files_only=True)
    if not tokenizer.is_fast:
        raise ModelFormatUnsupported("base_model.model_name: its tokenizer has no fast form; add a tokenizer.json")
    return tokenizer


def require_vocabulary(files: ModelFiles, counts: Mapping[str, TokenCounts]) -> None:
    """Refuse a tokenizer that has tokens which the model does not know, where the data has one of them.

    Raises:
        ModelFormatUnsupported: so it is.
    """
    size = _language(files).get("vocab_size")
    for counted in counts.values():
        highest, where = counted.highest
        if isinstance(size, int) and highest >= size:
            raise ModelFormatUnsupported(
                f"base_model.model_name: its tokenizer makes token {highest} of {where}, and its weights know those "
                f"below {size} (vocab_size in config.json): put the tokenizer beside them that they were trained with"
            )


def load_base(
    files: ModelFiles, customization: Customization, device: Device, *, onto: torch.device | None = None
) -> Any:
    """The base model on its device, quantized if the method says so.

    Args:
        files: the model's.
        customization: the job's.
        device: where it will be computed.
        onto: where it is put meanwhile, if that is elsewhere.

    Raises:
        ModelFormatUnsupported: the architecture is unknown, or the weights are broken or not all there.
    """
    quantizing: dict[str, Any] = {}
    if customization.quantization is not None:
        from agent.trainer import quantized

        quantizing = quantized.loading(customization.quantization, onto or device.torch_device)
    # It draws on stderr, which is the job's log.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with Blaming("it", ANOTHER_MODEL):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(files.directory),
            dtype=weights_dtype(customization),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, in words that name one
            **quantizing,
        )
    model, loading = loaded
    _require_shapes(loading["mismatched_keys"])
    _require_all_blocks(loading["unexpected_keys"])
    missing = sorted(loading["missing_keys"])
    if missing:
        # transformers would fill them with random numbers and go on.
        raise ModelFormatUnsupported(
            f"base_model.model_name: {len(missing)} weights are not in its files, the first {missing[0]}"
        )
    if customization.kind.peft_type:
        model.config.use_cache = False
    return quantized.pin(model) if quantizing else model.to(onto or device.torch_device)


def _require_shapes(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Refuse weights (name, shape in the files, shape in the model) that are not those of the configuration."""
    wrong = sorted((name, tuple(found), tuple(made)) for name, found, made in mismatched)
    if wrong:
        name, found, made = wrong[0]
        raise ModelFormatUnsupported(
            f"base_model.model_name: it cannot be loaded: by its config.json {name} is {_sizes(made)}, and in its "
            f"files {_sizes(found)} ({len(wrong)} weights differ): put the config.json and the weights of one model "
            "together"
        )


def _require_all_blocks(unused: Iterable[str]) -> None:
    """Refuse a configuration of fewer blocks than there are weights of: the last ones would be left out in silence."""
    blocks = sorted(name for name in unused if re.search(r"\.\d+\.", name))
    if blocks:
        raise ModelFormatUnsupported(
            f"base_model.model_name: it cannot be loaded: its files have {blocks[0]}, of which its config.json knows "
            f"nothing ({len(blocks)} weights): put the config.json and the weights of one model together"
        )


def _sizes(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _language(files: ModelFiles) -> Mapping[str, Any]:
    """The configuration of the language model in it."""
    nested = files.config.get("text_config")
    return nested if isinstance(nested, dict) else files.config


def weights_dtype(customization: Customization) -> torch.dtype:
    """What the base model's weights are while it is trained."""
    return torch.float32 if customization.method == "full" else DTYPES[customization.precision]


def adapt(
    base: Any, assignment: Assignment, tokenizer: Any, device: Device, *, total_steps: int = 1000
) -> AdaptedModel:
    """Put a fresh adapter into the base model, drawn from the job's seed; with method `full`, none.

    Args:
        base: as `load_base` gives it; changed in place.
        assignment: the attempt's.
        tokenizer: the model's.
        device: where the model is.
        total_steps: how many there will be; AdaLoRA's course depends on it.

    Raises:
        TargetModulesNotFound, LayersNotFound: a name matches nothing; the message lists what there is.
        ConfigInvalid: PEFT refuses its configuration for this model.
    """
    customization = assignment.customization
    adapter, kind = customization.adapter, customization.kind
    parameters = base.num_parameters()
    quantization = None
    if assignment.customization.quantization is not None:
        from agent.trainer import quantized

        quantization = quantized.facts(base)
    torch.manual_seed(assignment.tuning.seed)
    if kind.peft_type:
        targets = () if kind.prompt else target_modules(base, customization.method, adapter)
        situation = Situation(base, targets, total_steps, tokenizer.name_or_path)
        with logged_warnings():
            model = with_adapter(customization, situation, name=assignment.model.name)
        fuse(model)
    else:
        model, targets = whole(base, adapter.trainable_layers, name=assignment.model.name)
    if customization.method == "layernorm":
        for parameter in model.parameters():
            # PEFT leaves them in the base model's type.
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    if quantization is not None:
        model.peft_config["default"].fan_in_fan_out = quantized.stands_transposed(model)
    if assignment.tuning.gradient_checkpointing:
        # Not the reentrant kind: that one gives no gradient at all unless a block's input needs one. So the
        # embeddings' output, which transformers marks for its sake, is left alone: nobody needs the
        # gradient of the first block's input.
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        base.disable_input_require_grads()
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return AdaptedModel(
        model=model,
        device=device,
        target_modules=targets,
        selects_logits="logits_to_keep" in inspect.signature(base.forward).parameters,
        pad_id=pad_id or 0,
        parameters=parameters,
        quantization=quantization,
        moves_base=adapter.moves_base,
        leading_logits=0 if customization.method == "prefix_tuning" else customization.virtual_tokens,
        autocast=DTYPES[customization.precision] if kind.trains_base and customization.precision != "fp32" else None,
        allocation=Allocation(model) if customization.method == "adalora" else None,
        scales_loss=customization.precision == "fp16",
    )


def whole(base: Any, layers: Sequence[str], *, name: str) -> tuple[Any, tuple[str, ...]]:
    """The model without an adapter, and which of its parameters are trained if not all are.

    Raises:
        LayersNotFound: a layer is not there.
    """
    base.name_or_path = name
    names = [parameter for parameter, _ in base.named_parameters()]
    trained = set(within(base, layers, names))
    for parameter_name, parameter in base.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    return base, tuple(parameter for parameter in names if parameter in trained) if layers else ()


def with_adapter(customization: Customization, situation: Situation, *, name: str) -> Any:
    """The PEFT model.

    Raises:
        ConfigInvalid: PEFT refuses the configuration, or a name in it matches nothing.
    """
    try:
        config = peft_configuration(customization, situation)
        if customization.adapter.moves_base and next(situation.base.parameters()).is_meta:
            # Of shapes alone nothing can be taken: what the adapter begins as will come from rank 0.
            config.init_lora_weights = True
        # PEFT takes the name from here, whatever its configuration says, and it must not be a path of this node.
        situation.base.name_or_path = name
        model = get_peft_model(situation.base, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        # Names and types were checked at submit; what is left is what PEFT finds wrong for this very model.
        said = f"customization.peft.config: PEFT refuses it: {error}"[:ERROR_LIMIT]
        if "ParamWrapper" in said:
            said += f"; it adapts this model's experts: leave that out, or name target_modules, without {ALL_LINEAR}"
        raise ConfigInvalid(said) from error
    if getattr(config, "tokenizer_name_or_path", None):
        config.tokenizer_name_or_path = name
    _check_names(model, customization.adapter.config)
    return model


def _check_names(model: Any, config: Mapping[str, Any]) -> None:
    """PEFT passes over a name that matches nothing; the user would never learn of it."""
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(field, {}):
            adapted = model.base_model.targeted_module_names
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in adapted):
                raise ConfigInvalid(
                    f"customization.peft.config.{field}: {pattern} matches no module that is adapted; those are called "
                    f"{', '.join(sorted({name.rpartition('.')[2] for name in adapted}))}"
                )
    saved = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    for wanted in config.get("modules_to_save", []):
        if not any(name.endswith(f".{wanted}") for name in saved):
            raise ConfigInvalid(f"customization.peft.config.modules_to_save: {wanted} is no module of this model")


@contextmanager
def logged_warnings() -> Iterator[None]:
    """What libraries warn of goes to the job's log as lines of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # PEFT 0.21 reads a property that transformers 5.23 renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.warning("%s", message)  # once, though PEFT may say it of every module


def seed_dropout(seed: int, rank: int) -> None:
    """Give a rank its own random numbers: the same again for the same seed, other ones than every other rank's.

    The adapter was drawn before, alike on all ranks.
    """
    torch.manual_seed(int.from_bytes(sha256(f"{seed}/{rank}".encode()).digest()[:8], "big"))


def max_length(assignment: Assignment, files: ModelFiles) -> int:
    """The longest text to train on: the job's, unless the model was made for less. Virtual tokens take of the model's.

    Raises:
        ConfigInvalid: they leave nothing.
        ModelFormatUnsupported: it was made for next to nothing.
    """
    tuning, virtual = assignment.tuning, assignment.customization.virtual_tokens
    made_for = [_language(files).get(name) for name in ("max_position_embeddings", "n_positions")]
    lengths = [length for length in made_for if isinstance(length, int)]
    if lengths and min(lengths) < MIN_LENGTH:
        raise ModelFormatUnsupported(
            f"base_model.model_name: by its config.json it was made for {min(lengths)} tokens, and {MIN_LENGTH} are "
            "the least to train on: name another, or correct max_position_embeddings"
        )
    if lengths and min(lengths) - virtual < MIN_LENGTH:
        raise ConfigInvalid(
            f"customization.peft.config.num_virtual_tokens: {virtual} leave no room for text in a model made for "
            f"{min(lengths)} tokens"
        )
    return min([tuning.max_sequence_length, *(length - virtual for length in lengths)])


class Blaming:
    """Inside it, what a library raises is the model's fault: the files are not what they should be.

    Memory that runs out is not. Of bare `Exception` only the class itself is meant: tokenizers' Rust raises
    it for a broken `tokenizer.json`.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self._what = what
        self._remedy = remedy

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if kind is None or error is None or kind is torch.OutOfMemoryError or "can't allocate memory" in str(error):
            return
        if kind is Exception or issubclass(kind, LIBRARY_ERRORS):
            # A list of all architectures that there are helps nobody.
            said = f"{kind.__name__}: {error}".partition("\nModel type should be one of")[0][:ERROR_LIMIT]
            raise ModelFormatUnsupported(
                f"base_model.model_name: {self._what} cannot be loaded: {said}; {self._remedy}"
            ) from error
