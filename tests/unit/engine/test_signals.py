"""Hints inside one process: bells, and what was committed lately."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from controlplane.engine.signals import Bell, Recent
from tests.support import builders
from tests.support.clock import in_virtual_time

JOBS = [builders.job(uid=f"01K{i}") for i in range(3)]


@in_virtual_time
async def test_a_ring_before_the_wait_is_heard_and_rings_between_two_waits_are_one():
    bell = Bell()
    bell.ring()
    bell.ring()
    assert await bell.wait(1)
    assert not await bell.wait(1)
    assert asyncio.get_running_loop().time() < 1.01


@in_virtual_time
async def test_a_ring_wakes_the_waiter_at_once():
    bell = Bell(pace_seconds=0.02)
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, bell.ring)
    assert await bell.wait(10)
    assert loop.time() < 0.51


@in_virtual_time
async def test_under_load_rings_are_heard_no_faster_than_the_pace():
    bell = Bell(pace_seconds=0.02)
    loop = asyncio.get_running_loop()
    for _ in range(10):
        bell.ring()
        assert await bell.wait(1)
    assert 0.19 < loop.time() < 0.21


@in_virtual_time
async def test_a_ring_while_the_pace_is_kept_is_not_lost():
    bell = Bell(pace_seconds=0.02)
    bell.ring()
    asyncio.get_running_loop().call_later(0.01, bell.ring)
    assert await bell.wait(1)
    # Heard with the first, before the listener looked: it must not be needed again, nor may a later one be lost.
    bell.ring()
    assert await bell.wait(1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=60), st.integers(1, 15))
def test_what_is_answered_is_contiguous_whatever_was_announced(announced, limit):
    """Announcements may be lost, repeated or out of order."""
    recent = Recent(limit=limit)
    for job, sequence in announced:
        recent.add([builders.event(JOBS[job], sequence)])
        held = sum(len(recent.after(j.uid, 0, limit=99) or recent._events.get(j.uid, ())) for j in JOBS)
        assert held <= limit
    for job in JOBS:
        for after in range(13):
            row = recent.after(job.uid, after, limit=5)
            if row is None:
                continue
            assert 1 <= len(row) <= 5
            assert [event.sequence for event in row] == list(range(after + 1, after + 1 + len(row)))
            assert {event.uid for event in row} == {job.uid}


def test_the_job_that_moved_longest_ago_goes_first():
    recent = Recent(limit=3)
    for job in JOBS:
        recent.add([builders.event(job, 1)])
    recent.add([builders.event(JOBS[0], 2)])
    assert recent.after(JOBS[1].uid, 0, limit=9) is None
    assert len(recent.after(JOBS[0].uid, 0, limit=9)) == 2
    assert recent.newest(JOBS[0].uid) == 2
    assert recent.newest("nobody") == 0
