"""A webhook receiver for one machine: it verifies each call as a customer's own receiver should.

Standard Webhooks (https://www.standardwebhooks.com): the signature is HMAC-SHA256 over `id.timestamp.body`, keyed
with the base64 part of the `whsec_…` secret; a header may carry several, separated by blanks. The secret is known
only after the submit was answered, and a call may come earlier: such a call waits for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

#: Older or younger calls are taken for replays.
TOLERANCE = timedelta(minutes=5)
#: How long a call waits for the secret; well below the sender's own deadline of 15 s.
SECRET_WAIT = timedelta(seconds=5)
_PREFIX = "whsec_"


class SignatureError(Exception):
    """A call that proves no knowledge of the secret, or proves it for another time."""


def verify(headers: Mapping[str, str], body: bytes, *, secret: str, now: float) -> None:
    """Accept a call that `secret` signed within `TOLERANCE` of `now` (Unix seconds).

    Raises:
        SignatureError: in all other cases; the message is one of three fixed sentences.
    """
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not timestamp.isdecimal():
        raise SignatureError("the call carries no webhook-id or no webhook-timestamp")
    if abs(now - int(timestamp)) > TOLERANCE.total_seconds():
        raise SignatureError("the call is too old, or from the future")
    expected = sign(message_id, timestamp, body, secret=secret)
    for candidate in headers.get("webhook-signature", "").split():
        if hmac.compare_digest(candidate.encode(), expected.encode()):
            return
    raise SignatureError("no signature of the call is right")


def sign(message_id: str, timestamp: str, body: bytes, *, secret: str) -> str:
    """The one right signature, `v1,<base64>`.

    Raises:
        SignatureError: `secret` is no `whsec_…` of base64.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise SignatureError("the secret is not base64") from None
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


@dataclass(slots=True)
class Receiver:
    """What `listening` yields."""

    url: str
    """The address for `callbacks.webhook_url`."""
    secret: asyncio.Future[str]
    """Set it once to the `webhook_signing_secret` of the submit's answer."""


@contextlib.asynccontextmanager
async def listening(tell: Callable[[dict[str, Any]], None]) -> AsyncIterator[Receiver]:
    """Listen on a free loopback port while the context lasts.

    `tell` gets each verified CloudEvent, repeats included (`data.sequence` tells); the call is then answered 204.
    A call that does not verify is answered 401 and told to nobody; one that comes long before the secret, 503.
    """
    receiver = Receiver(url="", secret=asyncio.get_running_loop().create_future())

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        try:
            secret = await asyncio.wait_for(asyncio.shield(receiver.secret), SECRET_WAIT.total_seconds())
            verify(request.headers, body, secret=secret, now=time.time())
        except TimeoutError:
            return web.Response(status=503, text="the secret is not known yet")
        except SignatureError as error:
            return web.Response(status=401, text=str(error))
        tell(json.loads(body))
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post("/webhook", receive)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        receiver.url = f"http://{host}:{port}/webhook"
        yield receiver
    finally:
        receiver.secret.cancel()
        await runner.cleanup()
