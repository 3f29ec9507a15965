"""Envoy's ways to the control plane: one for calls, one for streams, and two that only ask how it is."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.settings import Settings

UNARY_CLUSTER = "controlplane"
STREAM_CLUSTER = "controlplane_streams"
# The control plane's names in grpc.health.v1 for what the two paths ask.
HEALTH_SERVICES = {"/healthz": "", "/readyz": "readiness"}
# What a slow reader can pile up on a connection before the control plane is told to wait.
BUFFER_BYTES = 256 * 1024
_STREAM_WINDOW_BYTES = 64 * 1024
_STREAMS_PER_CONNECTION = 100
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def clusters(settings: Settings) -> list[dict[str, Any]]:
    """Render all clusters."""
    return [
        _cluster(UNARY_CLUSTER, settings),
        _cluster(STREAM_CLUSTER, settings),
        *(_checked_cluster(path, settings) for path in HEALTH_SERVICES),
    ]


def checked_name(path: str) -> str:
    """Name the cluster whose health a path tells."""
    return f"controlplane{path.replace('/', '_')}"


def address(host: str, port: int) -> dict[str, Any]:
    """Render a TCP address."""
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, settings: Settings) -> dict[str, Any]:
    """Render a way to the control plane.

    Streams have their own: their slow readers hold windows of a connection, which must never starve a unary call.
    That is why streams times their window stay below the connection's window.
    """
    host, port = settings.control_plane
    endpoint = {"endpoint": {"address": address(host, port)}}
    limits = {"max_connections": 1024, "max_pending_requests": 16_384, "max_requests": 100_000, "max_retries": 64}
    http2 = {
        "max_concurrent_streams": _STREAMS_PER_CONNECTION,
        "initial_stream_window_size": _STREAM_WINDOW_BYTES if name == STREAM_CLUSTER else 1024 * 1024,
        "initial_connection_window_size": 2 * _STREAMS_PER_CONNECTION * _STREAM_WINDOW_BYTES,
    }
    options = {
        "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
        "explicit_http_config": {"http2_protocol_options": http2},
    }
    return {
        "name": name,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        # Half-open connections are found by TCP: gRPC servers answer HTTP/2 pings more often than every five minutes
        # with a GOAWAY.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 30, "keepalive_interval": 5, "keepalive_probes": 3}
        },
    }


def _checked_cluster(path: str, settings: Settings) -> dict[str, Any]:
    """Render a way to the control plane that only asks for its health, twice a second.

    Traffic does not depend on it: a control plane that comes back is used by the next request.
    """
    interval = "0.5s"
    check = {
        "timeout": "1s",
        "interval": interval,
        "no_traffic_interval": interval,
        "no_traffic_healthy_interval": interval,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "grpc_health_check": {"service_name": HEALTH_SERVICES[path]},
    }
    return {**_cluster(checked_name(path), settings), "health_checks": [check]}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
