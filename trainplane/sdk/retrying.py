"""When a call that nobody answered is tried again: full jitter within a budget.

Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/): each pause is drawn evenly
from zero to a ceiling that doubles, so that a thousand clients that lost one server do not come back as one.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from trainplane.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often.

    Attributes:
        budget: after so much time since the first try, the failure is the caller's.
        first: ceiling of the first pause; it doubles with each.
        ceiling: no pause is longer, unless the control plane asks for more.
    """

    budget: timedelta = timedelta(seconds=15)
    first: timedelta = timedelta(milliseconds=100)
    ceiling: timedelta = timedelta(seconds=5)


class Retries:
    """The tries of one call, or of one stream between two signs of life."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._start = time.monotonic()
        self._tries = 0

    def sign_of_life(self) -> None:
        """Somebody spoke: the budget counts from now. Pauses go on growing until a new `Retries` is made."""
        self._start = time.monotonic()

    async def pause(self, failure: Unavailable) -> None:
        """Wait before the next try.

        Raises:
            Unavailable: `failure` itself, because the budget would be spent after the pause.
        """
        ceiling = min(self._policy.ceiling, self._policy.first * 2 ** min(self._tries, 16))
        # Spreads load; guards nothing.
        delay = random.uniform(0, ceiling.total_seconds())  # noqa: S311
        if failure.retry_after is not None:
            delay += failure.retry_after.total_seconds()
        if time.monotonic() + delay - self._start > self._policy.budget.total_seconds():
            raise failure
        self._tries += 1
        await asyncio.sleep(delay)


async def retried(call: Callable[[], Awaitable[T]], *, policy: RetryPolicy) -> T:
    """Make an idempotent call until somebody answers or the budget is spent.

    Raises:
        Unavailable: the last failure, when the budget is spent.
        TrainplaneError: any other answer, at once.
    """
    retries = Retries(policy)
    while True:
        try:
            return await call()
        except Unavailable as failure:
            await retries.pause(failure)
