import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Node(_message.Message):
    __slots__ = ("name", "state", "reason", "runner", "simulated", "agent_version", "last_sync_time", "gpus", "cpus", "cpus_free", "memory_gb", "memory_gb_free", "labels")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Node.State]
        READY: _ClassVar[Node.State]
        NOT_READY: _ClassVar[Node.State]
        DRAINING: _ClassVar[Node.State]
    STATE_UNSPECIFIED: Node.State
    READY: Node.State
    NOT_READY: Node.State
    DRAINING: Node.State
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RUNNER_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_SYNC_TIME_FIELD_NUMBER: _ClassVar[int]
    GPUS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FREE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_GB_FIELD_NUMBER: _ClassVar[int]
    MEMORY_GB_FREE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: Node.State
    reason: str
    runner: str
    simulated: bool
    agent_version: str
    last_sync_time: _timestamp_pb2.Timestamp
    gpus: _containers.RepeatedCompositeFieldContainer[Gpu]
    cpus: int
    cpus_free: int
    memory_gb: float
    memory_gb_free: float
    labels: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[Node.State, str]] = ..., reason: _Optional[str] = ..., runner: _Optional[str] = ..., simulated: _Optional[bool] = ..., agent_version: _Optional[str] = ..., last_sync_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., gpus: _Optional[_Iterable[_Union[Gpu, _Mapping]]] = ..., cpus: _Optional[int] = ..., cpus_free: _Optional[int] = ..., memory_gb: _Optional[float] = ..., memory_gb_free: _Optional[float] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Gpu(_message.Message):
    __slots__ = ("index", "type", "memory_bytes", "job_id")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    index: int
    type: str
    memory_bytes: float
    job_id: str
    def __init__(self, index: _Optional[int] = ..., type: _Optional[str] = ..., memory_bytes: _Optional[float] = ..., job_id: _Optional[str] = ...) -> None: ...
