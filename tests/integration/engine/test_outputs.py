"""No two live jobs publish to one place."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.domain.errors import JobExists, OutputInUse
from controlplane.engine.preparing import Asked
from controlplane.engine.submissions import Created, Repeated
from tests.support.clock import in_virtual_time
from tests.support.world import spec, world


def at(job_id, output):
    return spec(job_id, artifacts={"output_uri": output})


async def submitted(here, *specs):
    """What became of submits that share a batch."""
    async with here.loops("submissions"):
        work = [here.submissions.submit(Asked(each, "default")) for each in specs]
        return await asyncio.gather(*work, return_exceptions=True)


def told(outcomes):
    """Who is in the way of each; None: it was stored, or is a repeat."""
    assert all(isinstance(each, (Created, Repeated, OutputInUse)) for each in outcomes), outcomes
    return [each.job_id if isinstance(each, OutputInUse) else None for each in outcomes]


NESTED = [
    ("file:///out/a/", "file:///out/a"),
    ("file:///out/a/", "file:///out//a/./"),
    ("file:///out/a/", "file:///out/a/b/c/"),
    ("file:///out/a/b/", "file:///out/a/"),
    ("file:///out/%61/", "file:///out/a/"),
    ("s3://bucket/", "s3://bucket/models/"),
    ("s3://bucket/models/x/", "s3://bucket/models/"),
]
APART = [
    ("file:///out/a/", "file:///out/ab/"),
    ("file:///out/a-b/", "file:///out/a/"),
    ("s3://bucket/a/", "s3://bucket-2/a/"),
    ("s3://bucket/a/", "file:///bucket/a/"),
]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("first", "second"), NESTED)
def test_a_place_in_use_or_one_above_or_below_it_is_refused_naming_the_job(tmp_path, first, second, together):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here:
            one, two = at("one", first), at("two", second)
            outcomes = (
                await submitted(here, one, two)
                if together
                else [*await submitted(here, one), *await submitted(here, two)]
            )
            assert told(outcomes) == [None, "one"]
            assert "artifacts.output_uri" in str(outcomes[1])
            assert "'one', which is QUEUED" in str(outcomes[1])
            assert await here.store.read(lambda tx: tx.find_job("default", "two")) is None

    run()


@pytest.mark.parametrize(("first", "second"), APART)
def test_places_apart_are_both_taken(tmp_path, first, second):
    @in_virtual_time
    async def run():
        async with world(tmp_path) as here:
            assert told(await submitted(here, at("one", first), at("two", second))) == [None, None]

    run()


@in_virtual_time
async def test_a_repeat_is_no_rival_of_itself_and_a_changed_one_hears_of_its_name(tmp_path):
    async with world(tmp_path) as here:
        one = at("one", "file:///out/a/")
        outcomes = await submitted(here, *[one] * 5)
        assert [each.created for each in outcomes] == [True] + [False] * 4
        assert told(await submitted(here, one)) == [None]
        moved, other = await submitted(here, at("one", "file:///out/a/b/"), at("two", "file:///out/a/"))
        assert isinstance(moved, JobExists)
        assert told([other]) == ["one"]


@in_virtual_time
async def test_a_repeat_of_an_ended_job_holds_no_place(tmp_path):
    async with world(tmp_path) as here:
        one = at("one", "file:///out/a/")
        await submitted(here, one)
        await here.jobs.cancel("one", project="default")
        again, two, three = await submitted(here, one, at("two", "file:///out/a/"), at("three", "file:///out/a/x/"))
        assert told([again, two, three]) == [None, None, "two"]
        assert again.record.job.state == "CANCELLED"


@in_virtual_time
async def test_the_end_of_the_job_in_the_way_makes_room(tmp_path):
    async with world(tmp_path) as here:
        await submitted(here, at("one", "file:///out/a/"))
        assert told(await submitted(here, at("two", "file:///out/a/b/"))) == ["one"]
        await here.jobs.cancel("one", project="default")
        assert told(await submitted(here, at("two", "file:///out/a/b/"))) == [None]


@in_virtual_time
async def test_of_many_that_race_in_one_batch_the_first_of_each_place_wins_and_all_others_are_apart(tmp_path):
    async with world(tmp_path) as here:
        await submitted(here, at("there", "file:///out/5/deep/"))
        specs = [at(f"j{n}", f"file:///out/{n % 10}/{'x/' * (n // 10)}") for n in range(60)]
        outcomes = await submitted(here, *specs)
        assert told(outcomes)[:10] == [None] * 5 + ["there"] + [None] * 4
        # Where the top is not taken, the first below it is; all further ones lie in that.
        assert told(outcomes)[10:20] == [f"j{n}" if n != 5 else None for n in range(10)]
        assert told(outcomes)[20:] == ["j15" if n % 10 == 5 else f"j{n % 10}" for n in range(20, 60)]


@in_virtual_time
async def test_a_batch_without_conflicts_asks_the_database_one_question_more(tmp_path):
    async with world(tmp_path) as here:
        asked = []

        class Counting:
            def __init__(self, tx):
                self._tx = tx

            def __getattr__(self, name):
                asked.append(name)
                return getattr(self._tx, name)

        write = here.store.write
        here.submissions._store = type(
            "Store", (), {"write": staticmethod(lambda work: write(lambda tx: work(Counting(tx))))}
        )
        assert told(await submitted(here, *[at(f"j{n}", f"file:///out/{n}/") for n in range(50)])) == [None] * 50
        assert asked == ["outputs_beside", "insert_jobs", "append_events", "insert_endpoints"]
