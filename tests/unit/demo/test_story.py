import asyncio
from pathlib import Path

import pytest

from trainplane.demo.story import Heard, Knowledge, Outcome, verdict
from trainplane.v1.job_pb2 import Job

BEFORE = Knowledge(loss=3.0, answer="a broker", contains_keyword=False)
AFTER = Knowledge(loss=1.5, answer="NATS", contains_keyword=True)


def outcome(*, state=Job.SUCCEEDED, before=BEFORE, after=AFTER, numbers=(1, 2, 3), succeeded=True):
    async def heard():
        made = Heard(messages=[{"data": {"sequence": number}} for number in numbers])
        if succeeded:
            made.succeeded.set()
        return made

    return Outcome(Job(state=state, last_sequence=3), Path("/out"), "?", before, after, asyncio.run(heard()))


def failing(**changed):
    return [claim for claim, holds in verdict(outcome(**changed)) if not holds]


def test_all_holds_when_all_is_so():
    assert failing() == []


@pytest.mark.parametrize(
    ("changed", "claims"),
    [
        ({"state": Job.FAILED, "after": None}, 3),
        ({"after": Knowledge(2.41, "NATS", contains_keyword=True)}, 1),
        ({"after": Knowledge(1.5, "no idea", contains_keyword=False)}, 1),
        ({"before": Knowledge(3.0, "NATS", contains_keyword=True)}, 1),
        ({"numbers": (1, 3)}, 1),
        ({"numbers": (1, 2)}, 1),
        ({"numbers": ()}, 1),
        ({"numbers": (1, 2, 2, 3)}, 1),
        ({"succeeded": False}, 1),
    ],
)
def test_each_thing_that_is_not_so_is_named(changed, claims):
    assert len(failing(**changed)) == claims


def test_a_fall_of_exactly_a_fifth_is_enough():
    assert (
        failing(before=Knowledge(2.0, "", contains_keyword=False), after=Knowledge(1.6, "NATS", contains_keyword=True))
        == []
    )
