"""How to tell that a child is ready: by asking it what its users will ask."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

import grpc.aio

from trainplane.client import Client, ClientSettings
from trainplane.errors import TrainplaneError
from trainplane.sdk.retrying import RetryPolicy

#: One answer's time; the supervisor asks again.
_ANSWER_SECONDS = 2.0


async def nats_answers(host: str, port: int) -> bool:
    """Whether a NATS server greets on the port."""
    return (await _exchange(host, port, b"")).startswith(b"INFO ")


async def http_answers(host: str, port: int, path: str) -> bool:
    """Whether `GET path` is answered with 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    return b" 200 " in (await _exchange(host, port, request))


async def _exchange(host: str, port: int, request: bytes) -> bytes:
    """The first line that a server sends, after `request`; empty if there is none in time."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
    return b""


async def grpc_serves(address: str) -> bool:
    """Whether the standard health service says SERVING."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def node_is_ready(address: str, node: str) -> bool:
    """Whether the control plane takes the node for READY: its agent has spoken."""
    patience = ClientSettings(retry=RetryPolicy(budget=timedelta()))
    async with Client(address, token="", settings=patience) as client:
        try:
            return any(each.name == node and each.state == each.READY for each in await client.nodes())
        except TrainplaneError:
            return False
