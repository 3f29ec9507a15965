"""What a caller hears when a call fails: domain errors to gRPC status with details, and nothing else.

The one guard of all handlers. A bug becomes INTERNAL with a request id, by which the log has the whole story; no
exception text ever reaches a client.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from controlplane.domain import errors as e
from controlplane.domain import spec
from controlplane.engine.ports import OutcomeUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

DOMAIN = "trainplane.dev"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
#: A stream's reader that does not read for so long is ended: gRPC itself waits for ever.
WRITE_SECONDS = 60.0
#: Parts of a status as protobuf. It travels in a trailer, in base64 and beside its message; many clients take 8 KiB of
#: trailers in all (Java's always, C's mostly), and drop the whole answer if there are more.
_MESSAGE_BYTES = 400
_DETAILS_BYTES = 5_000
_PATHS_BYTES = 2_000
_TEXT_BYTES = 600
_ONE_SECOND = timedelta(seconds=1)
_log = structlog.get_logger()

CODES: dict[type[e.DomainError], int] = {
    e.InvalidSpec: code_pb2.INVALID_ARGUMENT,
    e.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    e.JobNotFound: code_pb2.NOT_FOUND,
    e.JobExists: code_pb2.ALREADY_EXISTS,
    e.OutputInUse: code_pb2.FAILED_PRECONDITION,
    e.MoveNotAllowed: code_pb2.FAILED_PRECONDITION,
    e.TooManyRequests: code_pb2.RESOURCE_EXHAUSTED,
    e.Unavailable: code_pb2.UNAVAILABLE,
}


def status(error: e.DomainError, *, request_id: str) -> status_pb2.Status:
    """The status of a domain error, with BadRequest, RetryInfo and ErrorInfo as they apply."""
    metadata = {"request_id": request_id}
    details: list[Message] = []
    message = str(error)
    if isinstance(error, e.InvalidSpec):
        kept, more = spec.fit(list(map(_short, error.violations)), _DETAILS_BYTES)
        message += f"; {more} more are not shown" if more else ""
        details.append(_bad_request(kept))
    elif isinstance(error, e.InvalidArgument):
        details.append(_bad_request([_short(error.violation)]))
    elif isinstance(error, e.JobExists):
        metadata["differing"] = _cut(",".join(error.differing), _PATHS_BYTES)
    elif isinstance(error, e.OutputInUse):
        metadata |= {"job_id": error.job_id, "state": str(error.state), "field": "artifacts.output_uri"}
    elif isinstance(error, e.MoveNotAllowed):
        metadata["state"] = str(error.state)
    elif isinstance(error, (e.TooManyRequests, e.Unavailable)):
        details.append(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after.total_seconds())))
    details.append(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    return _status(CODES[type(error)], message, details)


def _cut(text: str, most_bytes: int) -> str:
    """The text, or its beginning and a sign that there was more."""
    whole = text.encode(errors="replace")
    return text if len(whole) <= most_bytes else whole[: most_bytes - 3].decode(errors="ignore") + "…"


def _short(violation: e.Violation) -> e.Violation:
    return e.Violation(_cut(violation.field, _TEXT_BYTES), violation.reason, _cut(violation.description, _TEXT_BYTES))


def _status(code: int, message: str, details: list[Message]) -> status_pb2.Status:
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code, message=_cut(message, _MESSAGE_BYTES), details=packed)


def _bad_request(violations: Any) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=v.field, reason=v.reason, description=v.description)
            for v in violations
        ]
    )


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def metadata(context: grpc.aio.ServicerContext[Any, Any], key: str) -> str:
    """One text header of the call; empty where there is none."""
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return ""


def request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The gateway's id of this request, or a new one."""
    given = metadata(context, "x-request-id")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


class _Patience:
    """Cancels the task that made it when one of its writes takes too long.

    One timer for each stream: `asyncio.timeout` around each message costs a tenth of the whole message.
    """

    def __init__(self, seconds: float) -> None:
        self.lost = False
        """It has cancelled its task."""
        self._seconds = seconds
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    def begin(self) -> None:
        """A write begins."""
        self._since = self._loop.time()

    def end(self) -> None:
        """It is done."""
        self._since = None

    def over(self) -> None:
        """The stream is: nothing will be cancelled any more."""
        self._timer.cancel()

    def _look(self) -> None:
        due = (self._loop.time() if self._since is None else self._since) + self._seconds
        if due > self._loop.time() or self._task is None:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self.lost = True
            self._task.cancel()


def _unless_rendered(serialize: Any) -> Any:
    """Lets a handler answer the bytes of its message, where they were made beforehand."""

    def serialized(message: Any) -> bytes:
        rendered: bytes = message if message.__class__ is bytes else serialize(message)
        return rendered

    return serialized


class _Unreadable:
    """Stands for a request whose bytes are no message of its type."""


def _or_unreadable(deserialize: Any) -> Any:
    """What this raises never comes to a handler: gRPC tells the caller its text, and prints it on stderr."""

    def deserialized(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return deserialized


def _readable(request: Any) -> Any:
    """The request.

    Raises:
        InvalidArgument: it is no message.
    """
    if request.__class__ is _Unreadable:
        raise e.InvalidArgument(
            field="the request", reason="INVALID_MESSAGE", description="these bytes are no message that this call takes"
        )
    return request


class Guard:
    """Turns what handlers raise into status; counts calls in flight, so that a stop can wait for them.

    It wraps the handlers once, as they are added to the server: an interceptor would be asked anew at every call.
    """

    def __init__(self, server: grpc.aio.Server, *, write_seconds: float = WRITE_SECONDS) -> None:
        self.in_flight = 0
        self._server = server
        self._write_seconds = write_seconds

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Part of what generated code asks of a server; the same handlers come by the other way, by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Adds a service's methods, guarded."""
        guarded = {name: self._wrap(handler, f"/{service}/{name}") for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, method),
                request_deserializer=_or_unreadable(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, method),
            request_deserializer=_or_unreadable(handler.request_deserializer),
            response_serializer=_unless_rendered(handler.response_serializer),
        )

    def _unary(self, call: Any, method: str) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self.in_flight += 1
            try:
                return await call(_readable(request), context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # noqa: BLE001 - the place where a bug becomes INTERNAL
                await self._abort(error, context, method)
            finally:
                self.in_flight -= 1

        return guarded

    def _streaming(self, call: Any, method: str) -> Any:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self.in_flight += 1
            patience = _Patience(self._write_seconds)
            try:
                async with aclosing(call(_readable(request), context)) as messages:
                    async for message in messages:
                        patience.begin()
                        await context.write(message)
                        patience.end()
            except asyncio.CancelledError:
                if not patience.lost:
                    raise
                not_read = f"the stream was not read for {self._write_seconds:g} s; resume from your last number"
                await self._abort(e.TooManyRequests(not_read, retry_after=_ONE_SECOND), context, method)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - likewise
                await self._abort(error, context, method)
            finally:
                patience.over()
                self.in_flight -= 1

        return guarded

    async def _abort(self, error: Exception, context: grpc.aio.ServicerContext[Any, Any], method: str) -> NoReturn:
        number = request_id(context)
        if isinstance(error, (StoreUnavailable, OutcomeUnknown)):
            _log.warning("store_unavailable", method=method, request_id=number, error=str(error))
            error = e.Unavailable("the database does not answer; try again", retry_after=_ONE_SECOND)
        if isinstance(error, e.DomainError):
            answer = status(error, request_id=number)
        else:
            _log.error("call_failed", method=method, request_id=number, exc_info=error)
            info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"request_id": number})
            answer = _status(code_pb2.INTERNAL, f"an error of ours; report request id {number}", [info])
        await context.abort_with_status(rpc_status.to_status(answer))
        raise AssertionError("abort returns never")
