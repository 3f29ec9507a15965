from trainplane.wire.v1 import sync_pb2 as _sync_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClaimRequest(_message.Message):
    __slots__ = ("incarnation", "attempt", "nonce", "public_key", "rendezvous_port")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_PORT_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    attempt: _sync_pb2.AttemptRef
    nonce: bytes
    public_key: bytes
    rendezvous_port: int
    def __init__(self, incarnation: _Optional[int] = ..., attempt: _Optional[_Union[_sync_pb2.AttemptRef, _Mapping]] = ..., nonce: _Optional[bytes] = ..., public_key: _Optional[bytes] = ..., rendezvous_port: _Optional[int] = ...) -> None: ...

class ClaimReply(_message.Message):
    __slots__ = ("outcome", "reason", "assignment_json", "sealed_secrets", "applied")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[ClaimReply.Outcome]
        GRANTED: _ClassVar[ClaimReply.Outcome]
        REFUSED: _ClassVar[ClaimReply.Outcome]
        NOT_NOW: _ClassVar[ClaimReply.Outcome]
    OUTCOME_UNSPECIFIED: ClaimReply.Outcome
    GRANTED: ClaimReply.Outcome
    REFUSED: ClaimReply.Outcome
    NOT_NOW: ClaimReply.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_JSON_FIELD_NUMBER: _ClassVar[int]
    SEALED_SECRETS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    outcome: ClaimReply.Outcome
    reason: str
    assignment_json: bytes
    sealed_secrets: bytes
    applied: int
    def __init__(self, outcome: _Optional[_Union[ClaimReply.Outcome, str]] = ..., reason: _Optional[str] = ..., assignment_json: _Optional[bytes] = ..., sealed_secrets: _Optional[bytes] = ..., applied: _Optional[int] = ...) -> None: ...
