from trainplane.wire.v1 import sync_pb2 as _sync_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogRequest(_message.Message):
    __slots__ = ("incarnation", "attempt", "rank", "offset_bytes", "data")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    attempt: _sync_pb2.AttemptRef
    rank: int
    offset_bytes: int
    data: bytes
    def __init__(self, incarnation: _Optional[int] = ..., attempt: _Optional[_Union[_sync_pb2.AttemptRef, _Mapping]] = ..., rank: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LogReply(_message.Message):
    __slots__ = ("outcome", "size_bytes")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[LogReply.Outcome]
        STORED: _ClassVar[LogReply.Outcome]
        ENOUGH: _ClassVar[LogReply.Outcome]
        NOT_NOW: _ClassVar[LogReply.Outcome]
    OUTCOME_UNSPECIFIED: LogReply.Outcome
    STORED: LogReply.Outcome
    ENOUGH: LogReply.Outcome
    NOT_NOW: LogReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    outcome: LogReply.Outcome
    size_bytes: int
    def __init__(self, outcome: _Optional[_Union[LogReply.Outcome, str]] = ..., size_bytes: _Optional[int] = ...) -> None: ...
