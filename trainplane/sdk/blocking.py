"""The client without `await`, for notebooks and scripts.

One thread runs one event loop with one `Client` on it; each method here hands its arguments to the method of the
same name and waits. So there is one implementation of every call, and this face works where a loop runs already
(a notebook's own).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from trainplane.client import Client, ClientSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

P = ParamSpec("P")
T = TypeVar("T")


class _Call(Generic[P, T]):
    """The descriptor of a method that waits for `Client`'s method of the same name."""

    def __init__(self, method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, T]:
        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.run(self._method(client.inner, *args, **kwargs))

        return call


class _Iteration(Generic[P, T]):
    """The descriptor of a method that iterates over what `Client`'s method of the same name yields."""

    def __init__(self, method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, client: BlockingClient, owner: type) -> Callable[P, Iterator[T]]:
        @functools.wraps(self._method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
            return client.iterate(self._method(client.inner, *args, **kwargs))

        return call


class BlockingClient:
    """`Client` for code that does not await; its methods take and return the same. Close it, or use `with`.

    Iterators fetch on demand; closing one (or leaving its loop by `break`) ends its stream. Safe to use from
    several threads. Ctrl-C ends the wait and cancels the call.
    """

    def __init__(
        self, address: str | None = None, *, token: str | None = None, settings: ClientSettings | None = None
    ) -> None:
        self.inner = Client(address, token=token, settings=settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trainplane-client", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """`host:port` of the control plane."""
        return self.inner.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End calls in flight, the connection and the thread. Repeatable."""
        if self._loop.is_closed():
            return
        self.run(self.inner.close())
        self.run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of `inner` on the client's own loop, and wait for it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, generator: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield what a generator of `inner` yields; closes it at the end."""
        try:
            while True:
                try:
                    yield self.run(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self.run(generator.aclose())

    submit = _Call(Client.submit)
    validate = _Call(Client.validate)
    get = _Call(Client.get)
    cancel = _Call(Client.cancel)
    wait = _Call(Client.wait)
    artifacts = _Call(Client.artifacts)
    checkpoints = _Call(Client.checkpoints)
    nodes = _Call(Client.nodes)
    metrics = _Call(Client.metrics)
    backends = _Call(Client.backends)
    list = _Iteration(Client.list)
    events = _Iteration(Client.events)
    watch = _Iteration(Client.watch)
    logs = _Iteration(Client.logs)
