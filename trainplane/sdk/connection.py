"""The gRPC channel to a control plane: where it is, what every call carries, how its errors come back."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from trainplane.errors import ServerError, TrainplaneError, Unavailable, from_status
from trainplane.sdk.retrying import RetryPolicy, retried

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_ADDRESS = "127.0.0.1:50051"

_ADDRESS = re.compile(r"(?:(?P<scheme>https?)://)?(?P<host>\[[0-9A-Fa-f:]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})/?")
#: gRPC's own reconnecting: by default it waits up to two minutes, which would outlive every budget of ours.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
)
#: What a transport says of a call that broke underway; the control plane's own errors carry ErrorInfo.
_BROKEN = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_CALL_TIMEOUT = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a control plane listens.

    Attributes:
        target: `host:port`.
        tls: whether the connection is encrypted and the server's certificate verified by the system's roots.
        loopback: whether it is this machine.
        explicit: whether the user wrote a scheme.
    """

    target: str
    tls: bool
    loopback: bool
    explicit: bool

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port`, `http://host:port` (both in clear) or `https://host:port` (TLS).

        Raises:
            ValueError: it is none of these.
        """
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"the address must be host:port (or https://host:port), got {text!r}")
        host = match["host"].strip("[]")
        return cls(
            target=f"{match['host']}:{match['port']}",
            tls=match["scheme"] == "https",
            loopback=_is_loopback(host),
            explicit=match["scheme"] is not None,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection:
    """One channel. Opened by the first call, on the running loop; `close` it."""

    def __init__(self, address: Address, *, token: str, policy: RetryPolicy) -> None:
        if token and not (address.tls or address.loopback or address.explicit):
            raise ValueError(
                f"a token would travel in clear to {address.target}: write https://{address.target}"
                f" (or http://{address.target} if the network is your own)"
            )
        self.address = address
        self.policy = policy
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, made when it is first asked for."""
        if self._channel is None:
            target, options = self.address.target, _CHANNEL_OPTIONS
            self._channel = (
                grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(), options=options)
                if self.address.tls
                else grpc.aio.insecure_channel(target, options=options)
            )
        return self._channel

    async def close(self) -> None:
        """End calls in flight and the channel. Repeatable."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close(grace=None)

    async def unary(self, method: Any, request: Any, *, headers: Sequence[tuple[str, str]] = ()) -> Any:
        """Call an idempotent method, again while nobody answers and the budget lasts.

        Raises:
            TrainplaneError: the rebuilt error.
        """

        async def once() -> Any:
            try:
                return await method(
                    request, metadata=(*self._metadata, *headers), timeout=_CALL_TIMEOUT.total_seconds()
                )
            except grpc.aio.AioRpcError as error:
                raise self.rebuilt(error) from None

        return await retried(once, policy=self.policy)

    def stream(self, method: Any, request: Any) -> Any:
        """Open a server stream, without a deadline."""
        return method(request, metadata=self._metadata)

    def rebuilt(self, error: grpc.aio.AioRpcError) -> TrainplaneError:
        """The exception of our own tree for gRPC's.

        An error that carries no ErrorInfo was made by the transport, and is `Unavailable` where it broke underway.
        """
        from google.rpc.status_pb2 import Status

        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return from_status(Status.FromString(value if isinstance(value, bytes) else value.encode()))
        code, said = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Unavailable(f"{self.address.target} did not answer within {_CALL_TIMEOUT.total_seconds():g} s")
        if code is grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"cannot reach the control plane at {self.address.target}: {said}")
        if code in _BROKEN:
            return Unavailable(f"the call to {self.address.target} broke: {said}")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return ServerError(f"the server at {self.address.target} does not know this call: {said}")
        return from_status(Status(code=code.value[0], message=said))
