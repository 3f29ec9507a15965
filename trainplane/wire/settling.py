"""Knowing that the server has heard us: nats-py's own `flush` does not tell after a subscription."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nats.aio.client import Client


async def settled(client: Client) -> None:
    """Return when the server has taken in what was sent before, subscriptions above all.

    nats-py writes its PING to the socket at once, past commands that its flusher has yet to write. So the answer to the
    first one may come before the server knows of a subscription, but not before that was written; the second one tells.

    Raises:
        nats.errors.Error: the connection is over, or the server does not answer within 10 s.
    """
    await client.flush()
    await client.flush()
