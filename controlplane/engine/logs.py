"""Keeping trainers' logs: bytes in the blob store, sizes in SQL. An offset makes repeats harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.domain.artifact import Log
from controlplane.engine.log_reading import log_key
from controlplane.engine.requests import Kept, LogAnswer, LogChunk

if TYPE_CHECKING:
    from controlplane.engine.ports import BlobStore, Store, Transaction
    from controlplane.engine.signals import Hints

#: What is kept of one rank's log of one attempt; `artifacts.log_uri` gets all of it.
CAP_BYTES = 64 * 1024 * 1024


class Logs:
    """Takes pieces of logs."""

    def __init__(self, store: Store, *, blobs: BlobStore, hints: Hints) -> None:
        self._store = store
        self._hints = hints
        self._blobs = blobs

    async def log(self, chunk: LogChunk) -> LogAnswer:
        """Stores the next piece; one that does not follow on is answered with where to go on."""
        ref = chunk.attempt

        def stored(tx: Transaction) -> int | None:
            part = tx.attempts_on(chunk.node, [ref]).get(ref)
            if part is None or (part.gang and chunk.rank // len(part.devices) != part.index):
                return None  # of a gang each node has its own ranks
            log = tx.log(ref.job_uid, attempt=ref.number, rank=chunk.rank)
            return log.size_bytes if log else 0

        size = await self._store.read(stored)
        if size is None or size >= CAP_BYTES:
            return LogAnswer(Kept.ENOUGH, size or 0)
        if chunk.offset_bytes != size:
            return LogAnswer(Kept.STORED, size)
        data = chunk.data[: CAP_BYTES - size]
        await self._blobs.put(log_key(ref.job_uid, ref.number, chunk.rank), data, offset_bytes=size)
        kept = Log(ref.job_uid, ref.number, chunk.rank, size + len(data))
        await self._store.write(lambda tx: tx.save_log(kept))
        self._hints.give([ref.job_uid])
        return LogAnswer(Kept.STORED, kept.size_bytes)
