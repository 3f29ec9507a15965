import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SyncRequest(_message.Message):
    __slots__ = ("incarnation", "counter", "host_boot_id", "agent_version", "inventory", "attempts", "public_key")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    HOST_BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    INVENTORY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    counter: int
    host_boot_id: str
    agent_version: str
    inventory: Inventory
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptStatus]
    public_key: bytes
    def __init__(self, incarnation: _Optional[int] = ..., counter: _Optional[int] = ..., host_boot_id: _Optional[str] = ..., agent_version: _Optional[str] = ..., inventory: _Optional[_Union[Inventory, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[AttemptStatus, _Mapping]]] = ..., public_key: _Optional[bytes] = ...) -> None: ...

class Inventory(_message.Message):
    __slots__ = ("gpus", "cpus", "memory_bytes", "labels", "runner", "simulated", "not_ready_reason", "rendezvous_address")
    class Gpu(_message.Message):
        __slots__ = ("index", "type", "memory_bytes")
        INDEX_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
        index: int
        type: str
        memory_bytes: int
        def __init__(self, index: _Optional[int] = ..., type: _Optional[str] = ..., memory_bytes: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GPUS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_REASON_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    gpus: _containers.RepeatedCompositeFieldContainer[Inventory.Gpu]
    cpus: int
    memory_bytes: int
    labels: _containers.ScalarMap[str, str]
    runner: str
    simulated: bool
    not_ready_reason: str
    rendezvous_address: str
    def __init__(self, gpus: _Optional[_Iterable[_Union[Inventory.Gpu, _Mapping]]] = ..., cpus: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., runner: _Optional[str] = ..., simulated: _Optional[bool] = ..., not_ready_reason: _Optional[str] = ..., rendezvous_address: _Optional[str] = ...) -> None: ...

class AttemptStatus(_message.Message):
    __slots__ = ("attempt", "stage", "pid", "reports")
    class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STAGE_UNSPECIFIED: _ClassVar[AttemptStatus.Stage]
        CLAIMING: _ClassVar[AttemptStatus.Stage]
        CLAIMED: _ClassVar[AttemptStatus.Stage]
        RUNNING: _ClassVar[AttemptStatus.Stage]
        STOPPING: _ClassVar[AttemptStatus.Stage]
        STAGING: _ClassVar[AttemptStatus.Stage]
        PUBLISHING: _ClassVar[AttemptStatus.Stage]
        ENDED: _ClassVar[AttemptStatus.Stage]
    STAGE_UNSPECIFIED: AttemptStatus.Stage
    CLAIMING: AttemptStatus.Stage
    CLAIMED: AttemptStatus.Stage
    RUNNING: AttemptStatus.Stage
    STOPPING: AttemptStatus.Stage
    STAGING: AttemptStatus.Stage
    PUBLISHING: AttemptStatus.Stage
    ENDED: AttemptStatus.Stage
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    attempt: AttemptRef
    stage: AttemptStatus.Stage
    pid: int
    reports: int
    def __init__(self, attempt: _Optional[_Union[AttemptRef, _Mapping]] = ..., stage: _Optional[_Union[AttemptStatus.Stage, str]] = ..., pid: _Optional[int] = ..., reports: _Optional[int] = ...) -> None: ...

class AttemptRef(_message.Message):
    __slots__ = ("job_uid", "number")
    JOB_UID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    job_uid: str
    number: int
    def __init__(self, job_uid: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class SyncReply(_message.Message):
    __slots__ = ("outcome", "incarnation", "generation", "claim", "stop", "settled", "next_sync")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[SyncReply.Outcome]
        APPLIED: _ClassVar[SyncReply.Outcome]
        SUPERSEDED: _ClassVar[SyncReply.Outcome]
        NOT_NOW: _ClassVar[SyncReply.Outcome]
    OUTCOME_UNSPECIFIED: SyncReply.Outcome
    APPLIED: SyncReply.Outcome
    SUPERSEDED: SyncReply.Outcome
    NOT_NOW: SyncReply.Outcome
    class Stop(_message.Message):
        __slots__ = ("attempt", "reason")
        ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        attempt: AttemptRef
        reason: str
        def __init__(self, attempt: _Optional[_Union[AttemptRef, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    NEXT_SYNC_FIELD_NUMBER: _ClassVar[int]
    outcome: SyncReply.Outcome
    incarnation: int
    generation: int
    claim: _containers.RepeatedCompositeFieldContainer[AttemptRef]
    stop: _containers.RepeatedCompositeFieldContainer[SyncReply.Stop]
    settled: _containers.RepeatedCompositeFieldContainer[AttemptRef]
    next_sync: _duration_pb2.Duration
    def __init__(self, outcome: _Optional[_Union[SyncReply.Outcome, str]] = ..., incarnation: _Optional[int] = ..., generation: _Optional[int] = ..., claim: _Optional[_Iterable[_Union[AttemptRef, _Mapping]]] = ..., stop: _Optional[_Iterable[_Union[SyncReply.Stop, _Mapping]]] = ..., settled: _Optional[_Iterable[_Union[AttemptRef, _Mapping]]] = ..., next_sync: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
