"""Envoy's routes, one group per binding: what is refused and why, then the way to the control plane.

Envoy takes the first route that matches, so in a group the refusals stand first and may assume that those above them
did not apply. The transcoder runs before the router; routes that answer by themselves switch it off, so that its
plainer errors never come first.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway import errors
from gateway.clusters import HEALTH_SERVICES, STREAM_CLUSTER, UNARY_CLUSTER

if TYPE_CHECKING:
    from gateway.descriptors import Binding

TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
HEADER_MUTATION = "envoy.filters.http.header_mutation"
# A stream keeps silent for at most 30 s; four times that is a broken one.
STREAM_IDLE = timedelta(seconds=120)
# Retries only what the control plane cannot have seen: a submit is never sent twice by the gateway.
_RETRY = {"retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2}
_JSON_TYPE = r'(?i)application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?'
_SEGMENT = "[^/:]+"
# What the transcoder leaves over of the control plane's answer. Not for all answers: a gRPC client that strays here is
# told so in these headers.
_NO_GRPC_HEADERS = {
    "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
    "mutations": {"response_mutations": [{"remove_on_match": {"key_matcher": {"prefix": "grpc-"}}}]},
}
_DISABLED = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}

_CROSS_SITE = errors.Refusal(
    status=403,
    code=errors.PERMISSION_DENIED,
    reason="CROSS_SITE_REQUEST",
    message="a page of another site may not change anything here",
)
_ENCODED_BODY = errors.Refusal(
    status=415,
    code=errors.INVALID_ARGUMENT,
    reason="UNSUPPORTED_CONTENT_ENCODING",
    message="send the body uncompressed, without a content-encoding header",
)
_MEDIA_TYPE = errors.Refusal(
    status=415,
    code=errors.INVALID_ARGUMENT,
    reason="UNSUPPORTED_MEDIA_TYPE",
    message="the body must be JSON in UTF-8 and say so: add the header 'content-type: application/json'"
    " (with curl: -H 'content-type: application/json')",
)
# With 404 Envoy tells a gRPC client UNIMPLEMENTED, and a web client this.
_NO_GRPC = errors.Refusal(
    status=404,
    code=errors.UNIMPLEMENTED,
    reason="GRPC_NOT_SERVED",
    message="this port speaks JSON over HTTP; the control plane speaks gRPC on its own port",
)
_NO_ROUTE = errors.Refusal(
    status=404, code=errors.NOT_FOUND, reason="NO_ROUTE", message="no such path; docs/api.md lists them all"
)
WRONG_HOST = errors.Refusal(
    status=421,
    code=errors.PERMISSION_DENIED,
    reason="HOST_NOT_ALLOWED",
    message="this gateway does not serve the host that the request names",
)


def routes(bindings: tuple[Binding, ...], *, timeout: timedelta) -> list[dict[str, Any]]:
    """Render all routes, ending with the one that answers 404.

    Args:
        bindings: what is served.
        timeout: the bound on unary calls.
    """
    # The transcoder would let gRPC pass through untouched, past all that stands below.
    grpc = _header("content-type", "(?i)application/grpc.*")
    rendered = [refuse({"prefix": "/", "headers": [grpc]}, _NO_GRPC)]
    for binding in bindings:
        rendered += _group(binding, timeout)
    methods: dict[str, list[str]] = {path: ["GET", "HEAD"] for path in HEALTH_SERVICES}
    for binding in bindings:
        methods.setdefault(binding.template, []).append(binding.method)
    rendered += [_wrong_method(template, allowed) for template, allowed in sorted(methods.items())]
    return [*rendered, refuse({"prefix": "/"}, _NO_ROUTE)]


def refuse(match: dict[str, Any], refusal: errors.Refusal, **parts: Any) -> dict[str, Any]:
    """Render a route that answers a refusal."""
    return {
        "match": match,
        **errors.direct_response(refusal),
        "typed_per_filter_config": {TRANSCODER: _DISABLED},
        **parts,
    }


def path_regex(template: str) -> str:
    """Turn `/train/{job_id}:watch` into a regular expression for the whole path, the query left off.

    A variable is one segment without `:`, which belongs to verbs.
    """
    return "".join(_SEGMENT if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]+\})", template))


# Listed first in each host: a CONNECT that no route matches would wait for the end of a tunnel's body to be refused.
NO_TUNNEL = refuse(
    {"connect_matcher": {}},
    errors.Refusal(status=403, code=errors.PERMISSION_DENIED, reason="UPGRADE_REFUSED", message="this is no proxy"),
)


def _group(binding: Binding, timeout: timedelta) -> list[dict[str, Any]]:
    def match(*headers: dict[str, Any]) -> dict[str, Any]:
        method = {"name": ":method", "string_match": {"exact": binding.method}}
        return {"safe_regex": {"regex": path_regex(binding.template)}, "headers": [method, *headers]}

    group = []
    if binding.method != "GET":
        group.append(refuse(match(_header("sec-fetch-site", "(?i)cross-site|same-site")), _CROSS_SITE))
    if binding.has_body:
        group.append(refuse(match(_header("content-encoding", "(?i)identity", invert=True)), _ENCODED_BODY))
        wrong_type = _header("content-type", _JSON_TYPE, invert=True)
        # An action without content (`curl -X POST …:cancel`) need not say what type its nothing has.
        wrong_type["treat_missing_header_as_empty"] = binding.raw_body
        group.append(refuse(match(wrong_type), _MEDIA_TYPE))
    group.append(refuse(match(_header(":path", _query_regex(binding), invert=True)), _unknown_query(binding)))
    action: dict[str, Any] = {
        "cluster": UNARY_CLUSTER,
        "timeout": _seconds(timedelta(0) if binding.streams else timeout),
    }
    if binding.streams:
        action |= {"cluster": STREAM_CLUSTER, "idle_timeout": _seconds(STREAM_IDLE)}
    group.append(
        {
            "name": binding.rpc,
            "match": match(),
            "route": {**action, "retry_policy": _RETRY},
            "typed_per_filter_config": {HEADER_MUTATION: _NO_GRPC_HEADERS},
        }
    )
    return group


def _unknown_query(binding: Binding) -> errors.Refusal:
    allowed = ", ".join(binding.query_parameters)
    return errors.Refusal(
        status=400,
        code=errors.INVALID_ARGUMENT,
        reason="UNKNOWN_QUERY_PARAMETER",
        message=f"{binding.method} {binding.template} takes "
        + (f"no query parameters but {allowed}" if allowed else "no query parameters"),
    )


def _query_regex(binding: Binding) -> str:
    """Match a path with no query, or one of known names only.

    Names are compared as sent: a percent-encoded one is unknown, so that none can be smuggled past this.
    """
    names = "|".join(binding.query_parameters)
    pair = f"(({names})(=[^&]*)?)?" if names else ""
    return rf"[^?]*(\?{pair}(&{pair})*)?"


def _wrong_method(template: str, allowed: list[str]) -> dict[str, Any]:
    refusal = errors.Refusal(
        status=405,
        code=errors.UNIMPLEMENTED,
        reason="METHOD_NOT_ALLOWED",
        message=f"{template} takes {', '.join(allowed)}",
    )
    allow = {"header": {"key": "allow", "value": ", ".join(allowed)}}
    return refuse({"safe_regex": {"regex": path_regex(template)}}, refusal, response_headers_to_add=[allow])


def _header(name: str, regex: str, *, invert: bool = False) -> dict[str, Any]:
    return {"name": name, "string_match": {"safe_regex": {"regex": regex}}, "invert_match": invert}


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g}s"
