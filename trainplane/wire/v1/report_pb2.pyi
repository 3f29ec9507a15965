import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainplane.wire.v1 import sync_pb2 as _sync_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReportRequest(_message.Message):
    __slots__ = ("incarnation", "attempts")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptReports]
    def __init__(self, incarnation: _Optional[int] = ..., attempts: _Optional[_Iterable[_Union[AttemptReports, _Mapping]]] = ...) -> None: ...

class AttemptReports(_message.Message):
    __slots__ = ("attempt", "first_sequence", "reports")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    attempt: _sync_pb2.AttemptRef
    first_sequence: int
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    def __init__(self, attempt: _Optional[_Union[_sync_pb2.AttemptRef, _Mapping]] = ..., first_sequence: _Optional[int] = ..., reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("time", "started", "phase_changed", "progressed", "warned", "failed", "stopped", "finished", "published", "unreadable", "fetched", "measured", "checkpointed")
    TIME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    PHASE_CHANGED_FIELD_NUMBER: _ClassVar[int]
    PROGRESSED_FIELD_NUMBER: _ClassVar[int]
    WARNED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    UNREADABLE_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTED_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    started: Started
    phase_changed: PhaseChanged
    progressed: Progressed
    warned: Warned
    failed: Failed
    stopped: Stopped
    finished: Finished
    published: Published
    unreadable: Unreadable
    fetched: Fetched
    measured: Measured
    checkpointed: Checkpointed
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[Started, _Mapping]] = ..., phase_changed: _Optional[_Union[PhaseChanged, _Mapping]] = ..., progressed: _Optional[_Union[Progressed, _Mapping]] = ..., warned: _Optional[_Union[Warned, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., stopped: _Optional[_Union[Stopped, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ..., published: _Optional[_Union[Published, _Mapping]] = ..., unreadable: _Optional[_Union[Unreadable, _Mapping]] = ..., fetched: _Optional[_Union[Fetched, _Mapping]] = ..., measured: _Optional[_Union[Measured, _Mapping]] = ..., checkpointed: _Optional[_Union[Checkpointed, _Mapping]] = ...) -> None: ...

class Started(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class PhaseChanged(_message.Message):
    __slots__ = ("phase", "message")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    phase: str
    message: str
    def __init__(self, phase: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Fetched(_message.Message):
    __slots__ = ("base_model_commit",)
    BASE_MODEL_COMMIT_FIELD_NUMBER: _ClassVar[int]
    base_model_commit: str
    def __init__(self, base_model_commit: _Optional[str] = ...) -> None: ...

class Progressed(_message.Message):
    __slots__ = ("step", "total_steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_second", "gpu_memory_bytes", "remaining_seconds", "eval_loss_before", "eval_loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    GPU_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REMAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EVAL_LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    gpu_memory_bytes: float
    remaining_seconds: float
    eval_loss_before: float
    eval_loss: float
    def __init__(self, step: _Optional[int] = ..., total_steps: _Optional[int] = ..., epoch: _Optional[float] = ..., loss: _Optional[float] = ..., learning_rate: _Optional[float] = ..., grad_norm: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., gpu_memory_bytes: _Optional[float] = ..., remaining_seconds: _Optional[float] = ..., eval_loss_before: _Optional[float] = ..., eval_loss: _Optional[float] = ...) -> None: ...

class Warned(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("reason", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Stopped(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Published(_message.Message):
    __slots__ = ("output_uri", "manifest_digest", "files")
    class File(_message.Message):
        __slots__ = ("path", "size_bytes", "sha256")
        PATH_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        SHA256_FIELD_NUMBER: _ClassVar[int]
        path: str
        size_bytes: int
        sha256: str
        def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...
    OUTPUT_URI_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    output_uri: str
    manifest_digest: str
    files: _containers.RepeatedCompositeFieldContainer[Published.File]
    def __init__(self, output_uri: _Optional[str] = ..., manifest_digest: _Optional[str] = ..., files: _Optional[_Iterable[_Union[Published.File, _Mapping]]] = ...) -> None: ...

class Measured(_message.Message):
    __slots__ = ("steps", "series")
    class Series(_message.Message):
        __slots__ = ("name", "values")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUES_FIELD_NUMBER: _ClassVar[int]
        name: str
        values: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedScalarFieldContainer[int]
    series: _containers.RepeatedCompositeFieldContainer[Measured.Series]
    def __init__(self, steps: _Optional[_Iterable[int]] = ..., series: _Optional[_Iterable[_Union[Measured.Series, _Mapping]]] = ...) -> None: ...

class Checkpointed(_message.Message):
    __slots__ = ("step", "size_bytes", "manifest_digest", "oldest_step")
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    OLDEST_STEP_FIELD_NUMBER: _ClassVar[int]
    step: int
    size_bytes: int
    manifest_digest: str
    oldest_step: int
    def __init__(self, step: _Optional[int] = ..., size_bytes: _Optional[int] = ..., manifest_digest: _Optional[str] = ..., oldest_step: _Optional[int] = ...) -> None: ...

class Unreadable(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("outcome", "watermarks")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ReportReply.Outcome]
        APPLIED: _ClassVar[ReportReply.Outcome]
        NOT_NOW: _ClassVar[ReportReply.Outcome]
        SUPERSEDED: _ClassVar[ReportReply.Outcome]
    OUTCOME_UNSPECIFIED: ReportReply.Outcome
    APPLIED: ReportReply.Outcome
    NOT_NOW: ReportReply.Outcome
    SUPERSEDED: ReportReply.Outcome
    class Watermark(_message.Message):
        __slots__ = ("attempt", "applied", "stale")
        ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        APPLIED_FIELD_NUMBER: _ClassVar[int]
        STALE_FIELD_NUMBER: _ClassVar[int]
        attempt: _sync_pb2.AttemptRef
        applied: int
        stale: bool
        def __init__(self, attempt: _Optional[_Union[_sync_pb2.AttemptRef, _Mapping]] = ..., applied: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    outcome: ReportReply.Outcome
    watermarks: _containers.RepeatedCompositeFieldContainer[ReportReply.Watermark]
    def __init__(self, outcome: _Optional[_Union[ReportReply.Outcome, str]] = ..., watermarks: _Optional[_Iterable[_Union[ReportReply.Watermark, _Mapping]]] = ...) -> None: ...
