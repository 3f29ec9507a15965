"""The reference for submits, a process: a bare grpc.aio server that answers each HttpBody with itself."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.api.httpbody_pb2 import HttpBody

METHOD = "/bench.Echo/Echo"


async def _echo(request: HttpBody, _context: grpc.aio.ServicerContext[Any, Any]) -> HttpBody:
    return request


async def _serve() -> None:
    server = grpc.aio.server()
    _, service, name = METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(
        _echo, request_deserializer=HttpBody.FromString, response_serializer=HttpBody.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
