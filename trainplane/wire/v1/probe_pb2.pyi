from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeRequest(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    def __init__(self, sealed: _Optional[bytes] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("outcome", "reason", "message")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ProbeReply.Outcome]
        PASSED: _ClassVar[ProbeReply.Outcome]
        FAILED: _ClassVar[ProbeReply.Outcome]
        SKIPPED: _ClassVar[ProbeReply.Outcome]
    OUTCOME_UNSPECIFIED: ProbeReply.Outcome
    PASSED: ProbeReply.Outcome
    FAILED: ProbeReply.Outcome
    SKIPPED: ProbeReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    outcome: ProbeReply.Outcome
    reason: str
    message: str
    def __init__(self, outcome: _Optional[_Union[ProbeReply.Outcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
