"""A process of its own that stores jobs for ever and says each uid once it is acknowledged: it is there to be killed.

Usage: python acknowledging.py URL
"""

from __future__ import annotations

import asyncio
import sys

from controlplane.store import open_store
from tests.support.builders import event, job, new_job


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    store = await open_store(url)
    say("open")

    async def submit() -> None:
        while True:
            made = job()

            def work(tx, made=made):
                tx.insert_jobs([new_job(made, sealed_secrets=b"s" * 200)])
                tx.append_events([event(made)])

            await store.write(work)
            say(made.uid)

    await asyncio.gather(*(submit() for _ in range(4)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
