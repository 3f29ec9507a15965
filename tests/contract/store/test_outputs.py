from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.domain.job import State
from tests.support.builders import job, new_job

PLACES = ["/out/a/", "/out/b/", "/out/b-2/", "s3:b/m/x/", "s3:b/m/ü/"]


@pytest.fixture
async def jobs(store):
    """A live job for each place, one that has ended, one that publishes nowhere, and one of another project."""
    made = {place: job(job_id=f"at-{number}") for number, place in enumerate(PLACES)}
    ended = job(state=State.FAILED, end_time_us=5)
    foreign = job(project="other")

    def work(tx):
        tx.insert_jobs([new_job(each, output_place=place) for place, each in made.items()])
        tx.insert_jobs([new_job(ended, output_place="/out/b/c/"), new_job(foreign, output_place="/out/aa/"), new_job()])

    await store.write(work)
    return made


@pytest.mark.parametrize(
    ("place", "beside"),
    [
        ("/out/a/", ("/out/a/", "/out/a/")),
        ("/out/a/deeper/", ("/out/a/", "/out/b-2/")),
        ("/out/", ("/out/a/",)),
        ("/out/b/c/", ("/out/b/", "s3:b/m/x/")),
        ("s3:b/m/", ("/out/b/", "s3:b/m/x/")),
        ("s3:b/m/ü/y/", ("s3:b/m/ü/",)),
        ("/out/aa/", ("/out/a/", "/out/b-2/")),
    ],
)
async def test_the_neighbours_of_a_place_are_live_jobs_of_its_project_in_the_order_of_bytes(store, jobs, place, beside):
    assert await store.read(lambda tx: tx.outputs_beside("default", [place])) == {place: beside}


async def test_many_places_are_asked_for_at_once_and_none_is_no_question(store, jobs):
    found = await store.read(lambda tx: tx.outputs_beside("default", ["/out/a/", 'q"uote/']))

    assert found == {"/out/a/": ("/out/a/", "/out/a/"), 'q"uote/': ("/out/b/", "s3:b/m/x/")}
    assert await store.read(lambda tx: tx.outputs_beside("default", [])) == {}


async def test_a_place_is_held_until_its_job_has_ended(store, jobs):
    holder = jobs["/out/a/"]
    assert await store.read(lambda tx: tx.output_holder("default", "/out/a/")) == holder
    assert await store.read(lambda tx: tx.output_holder("default", "/out/")) is None
    assert await store.read(lambda tx: tx.output_holder("other", "/out/a/")) is None

    await store.write(lambda tx: tx.save_jobs([replace(holder, state=State.CANCELLED, end_time_us=9)]))

    assert await store.read(lambda tx: tx.output_holder("default", "/out/a/")) is None
    assert await store.read(lambda tx: tx.outputs_beside("default", ["/out/a/"])) == {"/out/a/": ("/out/b-2/",)}
