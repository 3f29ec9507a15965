"""Closing a NATS client for good, whatever it is doing at the moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client

#: Much shorter than any pause between tries to reconnect, so that a cancellation meets the pause.
_TURN_SECONDS = 0.02


async def close(client: Client) -> None:
    """Close a client; when this returns, no task of it tries to reconnect. Repeatable; not for the client's callbacks.

    nats-py (2.16) cancels that task once. Where a connection is refused in the same turn of the event loop,
    `asyncio.wait_for` of Python 3.11 raises the refusal in place of the cancellation, and the task goes on for ever: so
    would its process.
    """
    await client.close()
    task = client._reconnection_task  # noqa: SLF001 - it has no other way to be waited for
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_TURN_SECONDS)
