"""Errors that Envoy makes itself, in the shape that the control plane's have: `google.rpc.Status` as JSON.

Two kinds: refusals by a route (`Refusal`, a direct response whose code and reason travel in the route's metadata), and
failures inside Envoy, told apart by HTTP status in one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

DOMAIN = "trainplane.dev"
METADATA = "trainplane"
_CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"

# google.rpc.Code
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a route answers instead of calling the control plane."""

    status: int
    code: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What one kind of Envoy's own failures is told as.

    Attributes:
        status: the HTTP status that Envoy gives it.
        details: a regular expression within Envoy's response code details that tells it from others of that status;
            empty: all that no entry above matched.
        code: of google.rpc.Code.
        reason: for machines.
        message: for people. Envoy's own words are passed on only where they are about the request's query: elsewhere
            they tell of the installation's inside, or repeat a piece of the body.
        retry_after_seconds: given where trying again is of use.
        identified: the request was read so far that it has a request id.
    """

    status: int
    details: str = ""
    code: int
    reason: str
    message: str
    retry_after_seconds: int | None = None
    identified: bool = True


_ENVOYS_WORDS = "%LOCAL_REPLY_BODY%"

FAILURES = (
    Failure(
        status=400,
        details="^early_grpc_json_transcode_failure",
        code=INVALID_ARGUMENT,
        reason="INVALID_QUERY_PARAMETER",
        message=_ENVOYS_WORDS,
    ),
    Failure(
        status=400,
        details="^grpc_json_transcode_failure",
        code=INVALID_ARGUMENT,
        reason="INVALID_JSON",
        message="the body is not a JSON object that this method takes",
    ),
    Failure(
        status=400,
        details="^path_normalization_failed",
        code=INVALID_ARGUMENT,
        reason="INVALID_PATH",
        message="the path is not valid; a slash in a name cannot be encoded",
        identified=False,
    ),
    Failure(
        status=400,
        details="unexpected_underscore",
        code=INVALID_ARGUMENT,
        reason="INVALID_HEADER",
        message="a header's name has an underscore",
        identified=False,
    ),
    Failure(
        status=400,
        code=INVALID_ARGUMENT,
        reason="INVALID_HTTP",
        message="the request is not valid HTTP",
        identified=False,
    ),
    Failure(status=403, code=PERMISSION_DENIED, reason="UPGRADE_REFUSED", message="protocol upgrades are not served"),
    Failure(status=404, code=NOT_FOUND, reason="NO_ROUTE", message="no such path", identified=False),
    Failure(
        status=408,
        details="^request_header_timeout",
        code=DEADLINE_EXCEEDED,
        reason="REQUEST_TIMEOUT",
        message="the request's headers did not arrive in time",
        identified=False,
    ),
    Failure(status=408, code=DEADLINE_EXCEEDED, reason="REQUEST_TIMEOUT", message="the request did not arrive in time"),
    Failure(
        status=413, code=INVALID_ARGUMENT, reason="BODY_TOO_LARGE", message="the body is larger than {limit} bytes"
    ),
    Failure(
        status=426,
        code=UNIMPLEMENTED,
        reason="HTTP_VERSION_UNSUPPORTED",
        message="speak HTTP/1.1 or HTTP/2, not HTTP/1.0",
        identified=False,
    ),
    Failure(
        status=431,
        code=INVALID_ARGUMENT,
        reason="HEADERS_TOO_LARGE",
        message="the path and headers are larger than 8 KiB, or there are more than 100 headers",
        identified=False,
    ),
    Failure(
        status=500,
        details="response_buffer_size_limit_reached",
        code=INTERNAL,
        reason="ANSWER_TOO_LARGE",
        message="the answer is too large for the gateway; ask for a smaller page",
    ),
    Failure(status=500, code=INTERNAL, reason="GATEWAY_ERROR", message="the answer could not be given as JSON"),
    Failure(
        status=503,
        details="^health_check",
        code=UNAVAILABLE,
        reason="NOT_SERVING",
        message="the control plane cannot be reached, or says that it is not ready",
        retry_after_seconds=1,
    ),
    Failure(
        status=503,
        details="connection_termination|remote_reset|protocol_error",
        code=UNAVAILABLE,
        reason="CONTROL_PLANE_LOST",
        message="the control plane went away before it answered; whether the request took effect is not known",
        retry_after_seconds=1,
    ),
    Failure(
        status=503,
        code=UNAVAILABLE,
        reason="CONTROL_PLANE_UNREACHABLE",
        message="the control plane cannot be reached; try again",
        retry_after_seconds=1,
    ),
    Failure(
        status=504,
        code=DEADLINE_EXCEEDED,
        reason="CONTROL_PLANE_TIMEOUT",
        message="the control plane did not answer in time; whether the request took effect is not known",
    ),
)


def local_reply_config(max_body_bytes: int) -> dict[str, Any]:
    """Render `LocalReplyConfig`: the health check's answer, routes' refusals, then failures.

    Args:
        max_body_bytes: the body bound, named in the message of 413.
    """
    otherwise = _status(UNAVAILABLE, "the request could not be served", "GATEWAY_ERROR")
    return {
        "mappers": [
            {"filter": _when("response.code == 200"), "body_format_override": _json({"status": "SERVING"})},
            {
                "filter": _when("response.code_details == 'direct_response'"),
                "body_format_override": _json(_status(_route("code"), "%LOCAL_REPLY_BODY%", _route("reason"))),
            },
            *(_failure_mapper(failure, max_body_bytes) for failure in FAILURES),
        ],
        "body_format": _json(otherwise),
    }


def direct_response(refusal: Refusal) -> dict[str, Any]:
    """Render the parts of a route that answer a refusal."""
    return {
        "direct_response": {"status": refusal.status, "body": {"inline_string": refusal.message}},
        "metadata": {"filter_metadata": {METADATA: {"code": refusal.code, "reason": refusal.reason}}},
    }


def _failure_mapper(failure: Failure, max_body_bytes: int) -> dict[str, Any]:
    message = failure.message.format(limit=max_body_bytes)
    retry = failure.retry_after_seconds
    status = _status(failure.code, message, failure.reason, retry_after_seconds=retry)
    if not failure.identified:
        # An id that is not there would be printed as null, which is no string.
        del status["details"][0]["metadata"]
    condition = f"response.code == {failure.status}"
    if failure.details:
        condition += f" && response.code_details.matches('{failure.details}')"
    mapper: dict[str, Any] = {
        "filter": _when(condition),
        "body_format_override": _json(status),
    }
    if retry is not None:
        mapper["headers_to_add"] = [{"header": {"key": "retry-after", "value": str(retry)}}]
    return mapper


def _status(code: int | str, message: str, reason: str, *, retry_after_seconds: int | None = None) -> dict[str, Any]:
    """Build `google.rpc.Status`, whose values may be Envoy's `%…%` commands."""
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": DOMAIN,
            "metadata": {"request_id": "%REQ(X-REQUEST-ID)%"},
        }
    ]
    if retry_after_seconds is not None:
        retry_delay = f"{retry_after_seconds}s"
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": retry_delay})
    return {"code": code, "message": message, "details": details}


def _json(body: dict[str, Any]) -> dict[str, Any]:
    return {"json_format": body, "content_type": "application/json"}


def _route(key: str) -> str:
    return f"%METADATA(ROUTE:{METADATA}:{key})%"


def _when(expression: str) -> dict[str, Any]:
    """Render a condition in CEL, over Envoy's attributes of the response."""
    return {"extension_filter": {"name": "cel", "typed_config": {"@type": _CEL, "expression": expression}}}
