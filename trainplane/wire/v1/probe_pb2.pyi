from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProbeRequest(_message.Message):
    __slots__ = ("sealed",)
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sealed: bytes
    def __init__(self, sealed: _Optional[bytes] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("outcome", "reason", "message", "findings", "facts")
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
    class Finding(_message.Message):
        __slots__ = ("check", "outcome", "reason", "message")
        CHECK_FIELD_NUMBER: _ClassVar[int]
        OUTCOME_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        MESSAGE_FIELD_NUMBER: _ClassVar[int]
        check: str
        outcome: ProbeReply.Outcome
        reason: str
        message: str
        def __init__(self, check: _Optional[str] = ..., outcome: _Optional[_Union[ProbeReply.Outcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    outcome: ProbeReply.Outcome
    reason: str
    message: str
    findings: _containers.RepeatedCompositeFieldContainer[ProbeReply.Finding]
    facts: str
    def __init__(self, outcome: _Optional[_Union[ProbeReply.Outcome, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., findings: _Optional[_Iterable[_Union[ProbeReply.Finding, _Mapping]]] = ..., facts: _Optional[str] = ...) -> None: ...
