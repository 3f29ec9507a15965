"""Envoy's whole configuration as data: a pure function of the settings and the descriptor set.

The way of a request through the filters, downwards; answers go upwards:

    early mutation     headers that only trainplane may set are dropped
    header mutation    (answers only) safety headers on; by route, gRPC's headers off
    health checks      /healthz, /readyz answered from what Envoy last heard of the control plane
    buffer             bodies whole, bounded: 413
    transcoder         JSON <-> gRPC
    router             refusals, timeouts, the control plane
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from gateway.clusters import BUFFER_BYTES, HEALTH_SERVICES, address, checked_name, clusters
from gateway.descriptors import bindings, public_descriptors, service_names
from gateway.errors import local_reply_config
from gateway.routes import (
    HEADER_MUTATION,
    NO_TUNNEL,
    TRANSCODER,
    WRONG_HOST,
    refuse,
    routes,
)

if TYPE_CHECKING:
    from google.protobuf import descriptor_pb2

    from gateway.settings import Settings

# A unary answer as JSON. Pages are bounded to 1 MiB of protobuf by the control plane; JSON may be six times that.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_EXT = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_EXT}.filters.http"


def envoy_config(settings: Settings, descriptor_set: bytes) -> dict[str, Any]:
    """Render Envoy's bootstrap configuration, complete: nothing else is read at run time.

    Args:
        settings: the gateway's; `http_port` should be a real one.
        descriptor_set: a serialized `google.protobuf.FileDescriptorSet` of the protos with their imports.

    Raises:
        UnroutableRpcError: the protos have an HTTP rule that the gateway does not know how to serve.
    """
    descriptors = public_descriptors(descriptor_set)
    config: dict[str, Any] = {
        "node": {"id": "trainplane-gateway", "cluster": "trainplane"},
        "static_resources": {
            "listeners": [_listener(settings, descriptors)],
            "clusters": clusters(settings),
        },
        "overload_manager": {
            "resource_monitors": [
                _extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    f"{_EXT}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=20_000,
                )
            ]
        },
        # Envoy before 1.38 refuses regular expressions as long as those of the query parameters.
        "layered_runtime": {
            "layers": [{"name": "regexes", "static_layer": {"re2.max_program_size.error_level": 1000}}]
        },
        "application_log_config": {
            "log_format": {"json_format": {"time": "%Y-%m-%dT%T.%FZ", "level": "%l", "event": "envoy", "message": "%j"}}
        },
    }
    if settings.admin:
        config["admin"] = {"address": _admin_address(settings.admin)}
    return config


def _listener(settings: Settings, descriptors: descriptor_pb2.FileDescriptorSet) -> dict[str, Any]:
    return {
        "name": "http",
        "address": address(settings.http_host, settings.http_port),
        # A second gateway on the same port shall fail, not take half of the connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [_connection_manager(settings, descriptors)]}],
    }


def _connection_manager(settings: Settings, descriptors: descriptor_pb2.FileDescriptorSet) -> dict[str, Any]:
    return _extension(
        "envoy.filters.network.http_connection_manager",
        f"{_EXT}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="http",
        codec_type="AUTO",
        route_config=_route_config(settings, descriptors),
        http_filters=_filters(settings, descriptors),
        local_reply_config=local_reply_config(settings.max_body_bytes),
        early_header_mutation_extensions=[_forged_headers()],
        # Everyone outside is a stranger: Envoy then drops its own control headers from requests.
        use_remote_address=True,
        internal_address_config={},
        always_set_request_id_in_response=True,
        server_name="trainplane",
        server_header_transformation="OVERWRITE",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        strip_any_host_port=True,
        max_request_headers_kb=8,
        request_headers_timeout="10s",
        request_timeout="30s",
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "900s",
        },
        http2_protocol_options={"max_concurrent_streams": 1000},
        # curl and Java offer h2c in every request over HTTP/1.1; going on in HTTP/1.1 is the polite answer.
        **({"access_log": [_access_log()]} if settings.access_log else {}),
    )


def _route_config(settings: Settings, descriptors: descriptor_pb2.FileDescriptorSet) -> dict[str, Any]:
    served = {
        "name": "trainplane",
        "domains": list(settings.hosts),
        "routes": [NO_TUNNEL, *routes(bindings(descriptors), timeout=settings.route_timeout)],
    }
    hosts = [served]
    if "*" not in settings.hosts:
        hosts.append(
            {"name": "other-hosts", "domains": ["*"], "routes": [NO_TUNNEL, refuse({"prefix": "/"}, WRONG_HOST)]}
        )
    return {
        "name": "trainplane",
        "virtual_hosts": hosts,
        # Of Envoy's own headers only x-envoy-original-path and -method go on: the access log needs them to the end.
        "request_headers_to_remove": ["x-envoy-internal", "x-envoy-external-address"],
    }


def _filters(settings: Settings, descriptors: descriptor_pb2.FileDescriptorSet) -> list[dict[str, Any]]:
    return [
        _extension(
            HEADER_MUTATION,
            f"{_HTTP}.header_mutation.v3.HeaderMutation",
            mutations={"response_mutations": _answer_headers()},
        ),
        *(_health_check(path) for path in HEALTH_SERVICES),
        _extension("envoy.filters.http.buffer", f"{_HTTP}.buffer.v3.Buffer", max_request_bytes=settings.max_body_bytes),
        _extension(
            TRANSCODER,
            f"{_HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder",
            proto_descriptor_bin=base64.b64encode(descriptors.SerializeToString(deterministic=True)).decode(),
            services=list(service_names(descriptors)),
            print_options={"preserve_proto_field_names": True, "always_print_primitive_fields": True},
            convert_grpc_status=True,
            match_incoming_request_route=True,
            query_param_unescape_plus=True,
            max_response_body_size=MAX_ANSWER_BYTES,
            # The routes have refused all that this refuses; if they ever let something through, it stops here.
            request_validation_options={
                "reject_unknown_method": True,
                "reject_unknown_query_parameters": True,
                "reject_binding_body_field_collisions": True,
            },
        ),
        _extension("envoy.filters.http.router", f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True),
    ]


def _forged_headers() -> dict[str, Any]:
    """Drop what only trainplane and Envoy may say, before anything reads it: every header becomes gRPC metadata."""
    return _extension(
        "envoy.http.early_header_mutation.header_mutation",
        f"{_EXT}.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=[
            *(
                {"remove_on_match": {"key_matcher": {"prefix": prefix}}}
                for prefix in ("grpc-", "x-envoy-", "x-trainplane-")
            ),
            {"remove": "x-request-id"},
        ],
    )


def _answer_headers() -> list[dict[str, Any]]:
    def set_to(key: str, value: str) -> dict[str, Any]:
        return {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}

    return [
        {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
        set_to("cache-control", "no-store"),
        set_to("x-content-type-options", "nosniff"),
    ]


def _health_check(path: str) -> dict[str, Any]:
    match_path = {"name": ":path", "string_match": {"safe_regex": {"regex": rf"{path}(\?.*)?"}}}
    match_method = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    return _extension(
        f"envoy.filters.http.health_check{path}",
        f"{_HTTP}.health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[match_path, match_method],
        cluster_min_healthy_percentages={checked_name(path): {"value": 1}},
    )


def _access_log() -> dict[str, Any]:
    fields = {
        "event": "http_request",
        "time": "%START_TIME%",
        "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
        # The path as sent, its query left off.
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "status": "%RESPONSE_CODE%",
        "why": "%RESPONSE_CODE_DETAILS%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return _extension(
        "envoy.access_loggers.stdout",
        f"{_EXT}.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": fields},
    )


def _admin_address(admin: str) -> dict[str, Any]:
    return {"pipe": {"path": admin, "mode": 0o600}} if admin.startswith("/") else address("127.0.0.1", int(admin))


def _extension(extension_name: str, type_url: str, /, **config: Any) -> dict[str, Any]:
    return {"name": extension_name, "typed_config": {"@type": type_url, **config}}
