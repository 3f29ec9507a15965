from trainplane.wire.v1 import sync_pb2 as _sync_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CommitRequest(_message.Message):
    __slots__ = ("incarnation", "attempt", "manifest_digest")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    attempt: _sync_pb2.AttemptRef
    manifest_digest: str
    def __init__(self, incarnation: _Optional[int] = ..., attempt: _Optional[_Union[_sync_pb2.AttemptRef, _Mapping]] = ..., manifest_digest: _Optional[str] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("outcome", "reason")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[CommitReply.Outcome]
        GRANTED: _ClassVar[CommitReply.Outcome]
        REFUSED: _ClassVar[CommitReply.Outcome]
        NOT_NOW: _ClassVar[CommitReply.Outcome]
    OUTCOME_UNSPECIFIED: CommitReply.Outcome
    GRANTED: CommitReply.Outcome
    REFUSED: CommitReply.Outcome
    NOT_NOW: CommitReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    outcome: CommitReply.Outcome
    reason: str
    def __init__(self, outcome: _Optional[_Union[CommitReply.Outcome, str]] = ..., reason: _Optional[str] = ...) -> None: ...
