"""A job's log as one unbroken sequence of lines, over streams that break; it ends when the control plane ends it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainplane.errors import ResourceExhausted, TrainplaneError, Unavailable
from trainplane.sdk.retrying import Retries, RetryPolicy
from trainplane.sdk.streams import messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    import grpc.aio

    from trainplane.sdk.watching import WatchPolicy
    from trainplane.v1.log_line_pb2 import LogLine


class LogTail:
    """One reader's place in a job's log.

    Args:
        open_stream: opens `WatchJobLogs` at a position.
        rebuilt: makes our exception of gRPC's.
        retry: how the first stream is tried for.
        policy: what holds once one has spoken.
    """

    def __init__(
        self,
        *,
        open_stream: Callable[[str], Any],
        rebuilt: Callable[[grpc.aio.AioRpcError], TrainplaneError],
        retry: RetryPolicy,
        policy: WatchPolicy,
    ) -> None:
        self._open_stream = open_stream
        self._rebuilt = rebuilt
        self._retries = Retries(retry)
        self._retry_once_alive = replace(retry, budget=policy.patience)
        self._silence = policy.silence

    async def lines(self) -> AsyncGenerator[LogLine, None]:
        """Yield each line once, from the beginning to the end of the job.

        Raises:
            Unavailable: nobody answered for the whole budget.
            TrainplaneError: the call is refused, e.g. `JobNotFound`.
        """
        position = ""
        while True:
            try:
                stream = messages(self._open_stream(position), silence=self._silence, rebuilt=self._rebuilt)
                async with contextlib.aclosing(stream) as pages:
                    async for page in pages:
                        self._retries.sign_of_life()
                        if page.lines:
                            self._retries = Retries(self._retry_once_alive)
                        for line in page.lines:
                            yield line
                        position = page.position
            except Unavailable as error:
                failure = error
            except ResourceExhausted as error:
                # We read too slowly and were let go; the place is kept.
                failure = Unavailable(str(error), error.details)
            else:
                return
            await self._retries.pause(failure)
