"""A second process that writes to the database, as a crowd's submitter does: it neither locks nor migrates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controlplane.domain.spec import Rules
from controlplane.engine.preparing import Asked
from controlplane.engine.waits import KnownWaits
from controlplane.loops import running
from controlplane.store import StoreHeld, open_store
from controlplane.submitter import CrowdSubmitter
from controlplane.submitter.crowd import CROWD
from tests.support.builders import job, new_job
from tests.support.eventually import eventually
from tests.support.stack import SEED

if TYPE_CHECKING:
    from controlplane.engine.ports import Store


async def test_a_guest_and_its_host_read_what_the_other_wrote(url: str, store: Store) -> None:
    guest = await open_store(url, guest=True)
    try:
        mine, theirs = job(job_id="mine"), job(job_id="theirs")
        await store.write(lambda tx: tx.insert_jobs([new_job(mine)]))
        await guest.write(lambda tx: tx.insert_jobs([new_job(theirs)]))
        assert await guest.read(lambda tx: tx.job(mine.uid)) == mine
        assert await store.read(lambda tx: tx.job(theirs.uid)) == theirs
    finally:
        await guest.close()
    with pytest.raises(StoreHeld):  # by the host still
        await open_store(url)
    await store.ping()


async def test_a_submitter_stores_where_its_control_plane_reads(url: str, store: Store) -> None:
    told: list = []
    setup = (Rules(default_output_uri="file:///out/"), bytes(32), url)
    submitter = CrowdSubmitter(waits=KnownWaits(), announce=told.append, setup=setup)
    asked = Asked(SEED, "default").named("01K00000000000000000000001")
    async with running({"submitter": submitter.run()}):
        assert await submitter.take(asked, crowd=CROWD + 1) is None
        await eventually(lambda: submitter.pid)
        submitted = await submitter.take(asked, crowd=CROWD + 1)
    assert submitted is not None
    assert submitted.created
    found = await store.read(lambda tx: tx.record("default", "unique-train-id"))
    assert found is not None
    assert found.job.uid == asked.uid
    assert [event.uid for each in told for event in each.events] == [asked.uid]
