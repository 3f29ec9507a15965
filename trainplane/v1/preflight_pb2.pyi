from trainplane.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Preflight(_message.Message):
    __slots__ = ("valid", "violations", "warnings", "feasible", "infeasible_reason", "pending_reason", "checks", "estimate")
    VALID_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    INFEASIBLE_REASON_FIELD_NUMBER: _ClassVar[int]
    PENDING_REASON_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    valid: bool
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    warnings: _containers.RepeatedCompositeFieldContainer[_job_pb2.Warning]
    feasible: bool
    infeasible_reason: str
    pending_reason: str
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    estimate: Estimate
    def __init__(self, valid: _Optional[bool] = ..., violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[_job_pb2.Warning, _Mapping]]] = ..., feasible: _Optional[bool] = ..., infeasible_reason: _Optional[str] = ..., pending_reason: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ("field", "reason", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    reason: str
    description: str
    def __init__(self, field: _Optional[str] = ..., reason: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "status", "reason", "message", "node")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[Check.Status]
        PASSED: _ClassVar[Check.Status]
        FAILED: _ClassVar[Check.Status]
        SKIPPED: _ClassVar[Check.Status]
    STATUS_UNSPECIFIED: Check.Status
    PASSED: Check.Status
    FAILED: Check.Status
    SKIPPED: Check.Status
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: Check.Status
    reason: str
    message: str
    node: str
    def __init__(self, name: _Optional[str] = ..., status: _Optional[_Union[Check.Status, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("parameters", "trainable_parameters", "gpu_memory_bytes", "memory", "steps", "tokens", "seconds", "disk_bytes", "unknown", "sharded")
    class Memory(_message.Message):
        __slots__ = ("weights", "adapter", "gradients", "optimizer", "activations", "logits")
        WEIGHTS_FIELD_NUMBER: _ClassVar[int]
        ADAPTER_FIELD_NUMBER: _ClassVar[int]
        GRADIENTS_FIELD_NUMBER: _ClassVar[int]
        OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
        ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
        LOGITS_FIELD_NUMBER: _ClassVar[int]
        weights: float
        adapter: float
        gradients: float
        optimizer: float
        activations: float
        logits: float
        def __init__(self, weights: _Optional[float] = ..., adapter: _Optional[float] = ..., gradients: _Optional[float] = ..., optimizer: _Optional[float] = ..., activations: _Optional[float] = ..., logits: _Optional[float] = ...) -> None: ...
    class UnknownEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    SHARDED_FIELD_NUMBER: _ClassVar[int]
    parameters: float
    trainable_parameters: float
    gpu_memory_bytes: float
    memory: Estimate.Memory
    steps: int
    tokens: float
    seconds: float
    disk_bytes: float
    unknown: _containers.ScalarMap[str, str]
    sharded: bool
    def __init__(self, parameters: _Optional[float] = ..., trainable_parameters: _Optional[float] = ..., gpu_memory_bytes: _Optional[float] = ..., memory: _Optional[_Union[Estimate.Memory, _Mapping]] = ..., steps: _Optional[int] = ..., tokens: _Optional[float] = ..., seconds: _Optional[float] = ..., disk_bytes: _Optional[float] = ..., unknown: _Optional[_Mapping[str, str]] = ..., sharded: _Optional[bool] = ...) -> None: ...
