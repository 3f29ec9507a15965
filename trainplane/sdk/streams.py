"""One stream of messages, as it breaks: what every watcher does with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc.aio

from trainplane.errors import TrainplaneError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import timedelta


async def messages(
    call: Any, *, silence: timedelta, rebuilt: Callable[[grpc.aio.AioRpcError], TrainplaneError]
) -> AsyncGenerator[Any, None]:
    """Yield a stream's messages to its end; the call is cancelled when the generator is left.

    Args:
        call: the stream.
        silence: if nothing comes for so long, the connection is broken.
        rebuilt: makes our exception of gRPC's.

    Raises:
        Unavailable: it broke, or was silent.
        TrainplaneError: the call was refused.
    """
    try:
        while True:
            try:
                async with asyncio.timeout(silence.total_seconds()):
                    message = await call.read()
            except TimeoutError:
                raise Unavailable(f"the stream was silent for {silence.total_seconds():g} s") from None
            except grpc.aio.AioRpcError as error:
                raise rebuilt(error) from None
            if message is grpc.aio.EOF:
                return
            yield message
    finally:
        call.cancel()
