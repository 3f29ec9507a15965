"""A job's events as one unbroken sequence, over streams that break.

           open after N ──► events N+1, N+2 … ──► terminal event: done
              ▲                  │ broken, silent too long, slow reader, ended early
              └── pause ◄────────┘   (jittered; a budget from the last sign of life on)

A keep-alive (sequence 0) is a sign of life and nothing else. What was seen already is passed over.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainplane.errors import ResourceExhausted, TrainplaneError, Unavailable
from trainplane.sdk.retrying import Retries, RetryPolicy
from trainplane.sdk.streams import messages

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import grpc.aio

    from trainplane.v1.job_event_pb2 import JobEvent

#: Types of the events after which a job has no more.
TERMINAL_TYPES = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


@dataclass(frozen=True, slots=True)
class WatchPolicy:
    """How patient a watch is.

    Attributes:
        patience: how long a watch that has heard something tries to get back.
        silence: a stream that says nothing for so long is broken; must exceed the keep-alives' 30 s.
    """

    patience: timedelta = timedelta(minutes=5)
    silence: timedelta = timedelta(seconds=75)


class Watch:
    """One watcher's place in a job's events.

    Args:
        open_stream: opens `WatchJob` after a sequence.
        is_over: tells whether a job has no event after a sequence, and never will.
        rebuilt: makes our exception of gRPC's.
        retry: how the first stream is tried for.
        policy: what holds once one has spoken.
    """

    def __init__(
        self,
        *,
        open_stream: Callable[[int], Any],
        is_over: Callable[[int], Awaitable[bool]],
        rebuilt: Callable[[grpc.aio.AioRpcError], TrainplaneError],
        retry: RetryPolicy,
        policy: WatchPolicy,
    ) -> None:
        self._open_stream = open_stream
        self._is_over = is_over
        self._rebuilt = rebuilt
        self._retry_once_alive = replace(retry, budget=policy.patience)
        self._retries = Retries(retry)
        self._silence = policy.silence

    async def after(self, sequence: int) -> AsyncGenerator[JobEvent, None]:
        """Yield each event after `sequence` once, in order, and end after the terminal one.

        Raises:
            Unavailable: nobody answered for the whole budget.
            TrainplaneError: the call is refused, e.g. `JobNotFound`.
        """
        seen = sequence
        while True:
            try:
                async with contextlib.aclosing(self._one_stream(seen)) as events:
                    async for event in events:
                        if event.sequence <= seen:
                            continue
                        seen = event.sequence
                        self._retries = Retries(self._retry_once_alive)
                        yield event
                        if event.type in TERMINAL_TYPES:
                            return
                if await self._is_over(seen):
                    return
                failure = Unavailable("the stream of events ended early")
            except Unavailable as error:
                failure = error
            except ResourceExhausted as error:
                # We read too slowly and were let go; the place is kept.
                failure = Unavailable(str(error), error.details)
            await self._retries.pause(failure)

    async def _one_stream(self, seen: int) -> AsyncGenerator[JobEvent, None]:
        stream = messages(self._open_stream(seen), silence=self._silence, rebuilt=self._rebuilt)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                self._retries.sign_of_life()
                yield event
