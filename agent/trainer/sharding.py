"""A model that no rank holds whole: FSDP2 over each decoder block, the embeddings, the head and the rest (ADR 0031).

Sharded are the matrices of the base model, trained or not. Vectors, and what an adapter adds, are small: every rank has
them whole, as without sharding, and so are their gradients, their optimizer and the files they are kept in.

    rank 0: the model on the host ── unit by unit, each tensor to every rank ──► whole for a moment ──► fully_shard
    others: its shapes alone (meta) ─┘                                                                  a part each
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from agent.trainer.device import CPU_COST, Device
from agent.trainer.failures import NotYetSupported
from agent.trainer.group import leaving_blame_to_the_leader
from agent.trainer.layers import blocks
from agent.trainer.model import load_base, weights_dtype
from agent.trainer.pulse import PULSE
from agent.trainer.shared_passes import SharedPasses
from trainplane.backends import sharding as rule
from trainplane.backends.memory import kept_bytes
from trainplane.backends.model_shape import ModelShape, UnknownShape
from trainplane.backends.trained import trained

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agent.trainer.assignment import Assignment
    from agent.trainer.customization import Customization
    from agent.trainer.group import Group
    from agent.trainer.model import AdaptedModel
    from agent.trainer.model_files import ModelFiles

HOST = Device(torch.device("cpu"), "host", CPU_COST)
_NUMBER = re.compile(r"\.\d+\.")
_Place = tuple[torch.nn.Module, str]
_Unit = tuple[torch.nn.Module, MixedPrecisionPolicy | None]


def wanted(assignment: Assignment, files: ModelFiles, place: Device, group: Group) -> bool:
    """Whether this training is sharded; the same on every rank.

    Raises:
        NotYetSupported: it should be, and what is trained cannot be.
    """
    asked = assignment.tuning.sharding
    custom = assignment.customization
    block = {"method": custom.method, "precision": custom.precision, "peft": {"config": custom.adapter.config}}
    problem = rule.problem(block)
    if asked == rule.FULL and problem:
        raise NotYetSupported(f"tuning_parameters.sharding: {problem}")
    needs = group.size > 1 and asked == rule.AUTO and place.memory_bytes > 0
    kept = _kept_bytes(assignment, files) if needs else 0.0
    found = rule.shards(asked, block, devices=group.size, kept=kept, device_bytes=place.memory_bytes)
    return group.most(int(found)) > 0


def _kept_bytes(assignment: Assignment, files: ModelFiles) -> float:
    """What a device would hold from step to step; of a model whose shape does not tell, its weights at least."""
    model = shapes(files, torch.float32)
    counted = Counter((_NUMBER.sub(".*.", name), tuple(p.shape)) for name, p in model.named_parameters())
    try:
        shape = ModelShape.of(files.config, [(name, list(size), count) for (name, size), count in counted.items()])
        block = assignment.spec["customization"]
        return kept_bytes(block, shape, trained(block, shape))
    except (UnknownShape, KeyError):
        return float(model.num_parameters() * weights_dtype(assignment.customization).itemsize)


def load(files: ModelFiles, customization: Customization, place: Device, group: Group, *, sharded: bool) -> Any:
    """The base model; one to be sharded: on rank 0 with its weights, on the host; on the others its shapes alone.

    Raises:
        ModelFormatUnsupported, PrecisionUnsupported: see `load_base`.
    """
    if not sharded:
        return load_base(files, customization, place)
    quantizes = customization.quantization is not None
    if group.first:
        model = load_base(files, customization, place, onto=HOST.torch_device)
        if quantizes:
            group.tell(_quantized().told(model))
        return model
    model = shapes(files, weights_dtype(customization))
    if quantizes:
        model = _quantized().build(model, group.tell(None))
    if customization.kind.peft_type:
        model.config.use_cache = False
    return model


def _quantized() -> Any:
    """The module that imports bitsandbytes, which other methods do without."""
    from agent.trainer import quantized

    return quantized


def settle(adapted: AdaptedModel, group: Group, *, sharded: bool) -> AdaptedModel:
    """Make what is trained the same on all ranks: rank 0's; and shard the model, if that is wanted.

    Raises:
        NotYetSupported: the model has no decoder blocks that can be told.
    """
    if sharded:
        return replace(adapted, sharding=Sharding(adapted, group))
    group.take_from_first(adapted.trainable)
    return adapted


def publishable(adapted: AdaptedModel, *, whole: bool) -> AdaptedModel:
    """The model as rank 0 publishes it: if the whole of it is needed, on one place. Called by all ranks alike."""
    return adapted.sharding.unshard(adapted) if adapted.sharding is not None and whole else adapted


def shapes(files: ModelFiles, dtype: torch.dtype) -> Any:
    """A model without its weights: nothing of it takes memory."""
    config = AutoConfig.from_pretrained(str(files.directory), trust_remote_code=False, local_files_only=True)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, trust_remote_code=False
        )
    return model


class Sharding:
    """A sharded model, as one of its ranks sees it. Every method is called by all ranks alike.

    Args:
        adapted: on rank 0 with its weights, on the host; on the others of shapes alone. It is sharded in place.
        group: all ranks.

    Raises:
        NotYetSupported: the model has no decoder blocks that can be told.
    """

    def __init__(self, adapted: AdaptedModel, group: Group) -> None:
        self.model = adapted.model
        self.group = group
        self._device = adapted.device.torch_device
        self._mesh = init_device_mesh(self._device.type, (group.size,))
        self.parameter_bytes = _bytes(self.model.parameters())
        """Of the whole model, what is trained in it included."""
        units = _units(adapted.base)
        self._is_whole = adapted.is_whole
        if adapted.quantization is not None:
            _quantized().keep_states(self.model, self._device)
        for kind in ("_parameters", "_buffers"):
            self._agree(kind)
        self._materialise_small()
        for unit, policy in [*units, (self.model, MixedPrecisionPolicy())]:
            self._shard(unit, _policy(adapted) if policy is None else policy)
            PULSE.beat()
        self.passes = SharedPasses(self.model, group, self._device)

    def facts(self) -> dict[str, Any]:
        """For the provenance."""
        units = sum(isinstance(module, FSDPModule) for module in self.model.modules())
        return {"kind": "full", "units": units, "parameter_bytes": self.parameter_bytes}

    def _divides(self, parameter: torch.Tensor) -> bool:
        return parameter.dim() > 1 and (self._is_whole or not parameter.requires_grad)

    @staticmethod
    def is_part(tensor: torch.Tensor) -> bool:
        """Whether a rank has a part of it only."""
        return isinstance(tensor, DTensor)

    @staticmethod
    def local(tensor: torch.Tensor) -> torch.Tensor:
        """What of a tensor lies on this rank."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def _agree(self, kind: str) -> None:
        """Take rank 0's types: its loader may keep some weights in another than the shapes were made in."""
        here = _shared(self.model, kind)
        told = self.group.tell([(tuple(_held(places, kind).shape), _held(places, kind).dtype) for places in here])
        if [shape for shape, _ in told] != [tuple(_held(places, kind).shape) for places in here]:
            raise NotYetSupported(
                "tuning_parameters.sharding: this model's shapes are not those of its loaded weights; say none"
            )
        for places, (_, dtype) in zip(here, told, strict=True):
            tensor = _held(places, kind)
            if tensor.dtype != dtype:
                made = tensor.detach().to(dtype)
                trained = kind == "_parameters" and tensor.requires_grad
                _put(places, kind, torch.nn.Parameter(made, requires_grad=trained) if kind == "_parameters" else made)

    def _materialise_small(self) -> None:
        """Give every rank the buffers, and the parameters that are not sharded."""
        for places in _shared(self.model, "_parameters"):
            parameter = _held(places, "_parameters")
            if not self._divides(parameter):
                made = torch.nn.Parameter(self._from_first(parameter), requires_grad=parameter.requires_grad)
                _put(places, "_parameters", made)
        for places in _shared(self.model, "_buffers"):
            _put(places, "_buffers", self._from_first(_held(places, "_buffers")))

    def _shard(self, unit: torch.nn.Module, policy: MixedPrecisionPolicy) -> None:
        """Fill a unit on this rank's device, and leave it a part of that."""
        for places in _shared(unit, "_parameters"):
            parameter = _held(places, "_parameters")
            if self._divides(parameter) and not isinstance(parameter, DTensor):
                made = torch.nn.Parameter(self._from_first(parameter), requires_grad=parameter.requires_grad)
                _put(places, "_parameters", made)
        whole = {parameter for parameter in unit.parameters() if not self._divides(parameter)}
        fully_shard(unit, mesh=self._mesh, reshard_after_forward=True, mp_policy=policy, ignored_params=whole)
        module: Any = unit
        # The loss is divided by the trained tokens of all ranks already: a sum is the gradient, a mean is not.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        module.set_reduce_scatter_unused_params(True, recurse=False)

    def _from_first(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor, on this rank's device."""
        # Of bitsandbytes' parameters the numbers alone.
        source = tensor.detach().as_subclass(torch.Tensor)
        if self.group.first:
            source = source.to(self._device).contiguous()
        else:
            source = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        if source.numel():
            self.group.take_from_first([source.view(-1).view(torch.uint8)])
        return source

    def clip(self, parameters: Sequence[torch.nn.Parameter], most: float) -> torch.Tensor:
        """Clip gradients, some of which are sharded, by the norm of all of them; the norm before."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        parts = [self.local(gradient) for gradient in gradients if self.is_part(gradient)]
        rest = [gradient for gradient in gradients if not self.is_part(gradient)]
        norm = torch.nn.utils.get_total_norm(parts).square() if parts else torch.zeros(())
        norm = norm.to(self._device)
        self.group.add_up([norm])
        if rest:
            norm += torch.nn.utils.get_total_norm(rest).square()
        norm = norm.sqrt()
        factor = (most / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*parts, *rest):
            gradient.mul_(factor)
        return norm

    def wholes(self, tensors: Iterable[torch.Tensor]) -> Iterator[torch.Tensor | None]:
        """Each tensor gathered, on rank 0's host; the others get None. One is whole on the devices at a time."""
        for tensor in tensors:
            whole = tensor.detach()
            if isinstance(whole, DTensor):
                with leaving_blame_to_the_leader():
                    whole = whole.full_tensor()
            PULSE.beat()
            yield whole.cpu() if self.group.first else None

    def fill(self, target: torch.Tensor, whole: Any) -> None:
        """Put this rank's part of a whole tensor, or of what can be sliced like one, into the target."""
        if not isinstance(target, DTensor):
            target.copy_(whole[:])
            return
        step = math.ceil(target.shape[0] / self.group.size)
        start = min(self.group.rank * step, target.shape[0])
        target.to_local().copy_(whole[start : min(start + step, target.shape[0])])

    def unshard(self, adapted: AdaptedModel) -> AdaptedModel:
        """Make rank 0's model an ordinary one again, whole on the host. The others' is of no use after this."""
        for places in _shared(self.model, "_parameters"):
            parameter = _held(places, "_parameters")
            (whole,) = self.wholes([parameter])
            if whole is not None:
                _put(places, "_parameters", torch.nn.Parameter(whole, requires_grad=parameter.requires_grad))
        for module in list(self.model.modules()):
            if isinstance(module, FSDPModule):
                _unwrap(module)
        if self.group.first:
            for places in _shared(self.model, "_buffers"):
                _put(places, "_buffers", _held(places, "_buffers").cpu())
            if adapted.quantization is not None:
                _quantized().restore(self.model)
        return replace(adapted, device=HOST, sharding=None)


def _unwrap(module: Any) -> None:
    """Undo `fully_shard`, which torch has no function for."""
    state = module._get_fsdp_state()  # noqa: SLF001
    state._pre_forward_hook_handle.remove()  # noqa: SLF001
    state._post_forward_hook_handle.remove()  # noqa: SLF001
    module.__class__ = type(module).__mro__[FSDPModule._orig_cls_mro_index]  # noqa: SLF001


def _units(base: Any) -> list[_Unit]:
    """What is gathered at a time besides the root's own, and how it is computed; None: as the method wants it."""
    path = blocks(base)
    if not path:
        raise NotYetSupported(
            "tuning_parameters.sharding: this model has no list of decoder blocks that can be told; say none"
        )
    found: list[tuple[torch.nn.Module, MixedPrecisionPolicy | None]] = [
        (block, None) for block in base.get_submodule(path)
    ]
    embeddings, head = base.get_input_embeddings(), base.get_output_embeddings()
    used = {id(parameter) for parameter in embeddings.parameters()}
    if head is not None and not any(id(parameter) in used for parameter in head.parameters()):
        # Autocast leaves embeddings as they are.
        found += [(embeddings, MixedPrecisionPolicy()), (head, None)]
    return found


def _policy(adapted: AdaptedModel) -> MixedPrecisionPolicy:
    """Matrices in what autocast would make of them, gathered so: half as much to send. Gradients add up in fp32."""
    if adapted.autocast is None or not adapted.is_whole:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=adapted.autocast, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _shared(root: torch.nn.Module, kind: str) -> list[list[_Place]]:
    """Where each parameter or buffer stands: tied ones stand in several places."""
    found: dict[int, list[_Place]] = {}
    for module in root.modules():
        for name, tensor in getattr(module, kind).items():
            if tensor is not None:
                found.setdefault(id(tensor), []).append((module, name))
    return list(found.values())


def _held(places: Sequence[_Place], kind: str) -> Any:
    module, name = places[0]
    return getattr(module, kind)[name]


def _put(places: Iterable[_Place], kind: str, tensor: torch.Tensor) -> None:
    for module, name in places:
        getattr(module, kind)[name] = tensor
