"""One POST to an endpoint, signed (Standard Webhooks), and how a try of it is recorded: what all endpoints share."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlplane.domain import delivery as d
from controlplane.domain.delivery import Delivery, Endpoint, Heard, Outcome, PendingRetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controlplane.engine.ports import Answer, Clock, Outbound, Transaction, Vault


_MOST_UNREACHED = 10_000


def signature(secret: str, *, event_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` header (standardwebhooks.com): `v1,` and base64 of HMAC-SHA256.

    Args:
        secret: `whsec_` and the key in base64.
        event_id: the `webhook-id` header.
        timestamp: the `webhook-timestamp` header, Unix seconds.
        body: as sent.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is posted."""

    uid: str
    """The job's: its signing secret is used."""
    url: str
    id: str
    """The `webhook-id`: the same whenever the same content is sent again."""
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Further ones; may hold a secret."""


@dataclass(frozen=True, slots=True)
class Posted:
    """One try: when it began, what was answered, and what that means to the rules."""

    started_us: int
    answer: Answer
    heard: Heard


class Sender:
    """Signs and posts.

    Attributes:
        unreached: hosts to which the last try found no connection.
    """

    def __init__(self, outbound: Outbound, *, vault: Vault, clock: Clock) -> None:
        self.unreached: set[str] = set()
        self._outbound = outbound
        self._vault = vault
        self._clock = clock

    async def post(self, parcel: Parcel) -> Posted:
        """Posts once; never raises for what the other side does."""
        started_us = self._clock.now_us()
        timestamp = started_us // 1_000_000
        secret = self._vault.signing_secret(parcel.uid)
        headers = {
            "content-type": parcel.content_type,
            "webhook-id": parcel.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, event_id=parcel.id, timestamp=timestamp, body=parcel.body),
            **parcel.headers,
        }
        answer = await self._outbound.post(parcel.url, body=parcel.body, headers=headers, deadline=d.TRY_DEADLINE)
        if not answer.reached and len(self.unreached) < _MOST_UNREACHED:
            self.unreached.add(d.host_of(parcel.url))
        elif answer.reached:
            self.unreached.discard(d.host_of(parcel.url))
        return self.posted(answer, started_us=started_us)

    def posted(self, answer: Answer, *, started_us: int) -> Posted:
        """A try that ends now, however it was answered."""
        jitter = random.random()  # noqa: S311 - spreads retries, keeps no secret
        heard = Heard(answer.status_code, answer.retry_after, self._clock.now_us(), jitter)
        return Posted(started_us, answer, heard)


def delivery(of: Endpoint | PendingRetry, sequence: int, posted: Posted, outcome: Outcome) -> Delivery:
    """The record of a try; `of` as it was before."""
    return Delivery(
        job_uid=of.job_uid,
        kind=of.kind,
        sequence=sequence,
        number=of.tries + 1,
        time_us=posted.started_us,
        outcome=outcome,
        status_code=posted.answer.status_code,
        detail=posted.answer.detail,
        duration_seconds=posted.answer.duration.total_seconds(),
    )


def record(tx: Transaction, *, endpoint: Endpoint, tried: Delivery | None, retry: PendingRetry | None = None) -> None:
    """Writes what a try led to."""
    if tried is not None:
        tx.insert_delivery(tried)
    tx.save_endpoint(endpoint)
    if retry is not None:
        tx.save_retry(retry)
