"""What every bus promises the engine (`controlplane.engine.ports.Bus`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controlplane.domain.event import StoredEvent
from controlplane.engine.ports import BusUnavailable
from tests.support.eventually import eventually
from trainplane.wire import subjects

if TYPE_CHECKING:
    from tests.contract.bus.conftest import BusKit


def event(sequence: int, *, uid: str = "01J", kind: str = "job.progress") -> StoredEvent:
    text = f'{{"id":"{uid}.{sequence}","größe":"{"x" * 300}"}}'
    return StoredEvent(uid, "default", f"job-{uid}", sequence, kind, 0, text)


def events(first: int, last: int, *, uid: str = "01J") -> list[StoredEvent]:
    return [event(sequence, uid=uid) for sequence in range(first, last + 1)]


def ids(messages: list[tuple[str, str, bytes]]) -> list[str]:
    return [message_id for _, message_id, _ in messages]


async def test_an_event_arrives_byte_for_byte_under_its_subject(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    sent = event(1, kind="job.phase_changed")
    await kit.bus.publish([sent])
    assert await kit.messages() == [
        (
            subjects.event(project="default", job_id="job-01J", event_type="job.phase_changed"),
            "01J.1",
            sent.json.encode(),
        )
    ]


async def test_nothing_published_is_nothing_stored(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    await kit.bus.publish([])
    assert await kit.messages() == []


async def test_ten_thousand_events_of_many_jobs_arrive_gapless_in_their_order(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    sent = [event(1 + number // 10, uid=f"job{number % 10}") for number in range(10_000)]
    for start in range(0, len(sent), 1_000):
        await kit.bus.publish(sent[start : start + 1_000])
    assert ids(await kit.messages()) == [f"{each.uid}.{each.sequence}" for each in sent]


@pytest.mark.parametrize("again", [(1, 30), (20, 50), (30, 30), (28, 32), (1, 80)])
async def test_events_published_again_are_dropped_and_the_others_keep_their_order(
    kit: BusKit, again: tuple[int, int]
) -> None:
    await kit.bus.ensure_stream()
    await kit.bus.publish(events(1, 30))
    await kit.bus.publish(events(*again))
    await kit.bus.publish(events(1, 100))
    assert ids(await kit.messages()) == [f"01J.{sequence}" for sequence in range(1, 101)]


async def test_the_same_batch_twice_is_stored_once(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    for _ in range(3):
        await kit.bus.publish(events(1, 300))
    assert len(await kit.messages()) == 300


async def test_large_events_go_out_too(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    large = [StoredEvent("01J", "default", "j", number, "job.failed", 0, "x" * 400_000) for number in range(1, 21)]
    await kit.bus.publish(large)
    assert [len(payload) for _, _, payload in await kit.messages()] == [400_000] * 20


async def test_the_stream_is_made_once_and_keeps_its_identity(kit: BusKit) -> None:
    first = await kit.bus.ensure_stream()
    assert first.made
    await kit.bus.publish(events(1, 2))
    second = await kit.bus.ensure_stream()
    assert (second.identity, second.made) == (first.identity, False)
    assert len(await kit.messages()) == 2


async def test_a_restart_keeps_what_was_published_and_the_identity(kit: BusKit) -> None:
    before = await kit.bus.ensure_stream()
    await kit.bus.publish(events(1, 500))
    await kit.take_away()
    await kit.bring_back()
    after = await kit.bus.ensure_stream()
    assert (after.identity, after.made) == (before.identity, False)
    assert len(await kit.messages()) == 500
    await kit.bus.publish(events(1, 501))
    assert len(await kit.messages()) == 501


async def test_a_wiped_store_is_noticed_by_a_new_identity(kit: BusKit) -> None:
    before = await kit.bus.ensure_stream()
    await kit.bus.publish(events(1, 2))
    await kit.wipe()
    after = await kit.bus.ensure_stream()
    assert after.made
    assert after.identity != before.identity
    await kit.bus.publish(events(1, 3))
    assert ids(await kit.messages()) == ["01J.1", "01J.2", "01J.3"]


@pytest.mark.parametrize("count", [1, 8, 9, 100])
async def test_without_a_stream_publishing_fails_instead_of_losing(kit: BusKit, count: int) -> None:
    with pytest.raises(BusUnavailable):
        await kit.bus.publish(events(1, count))


async def test_while_it_is_away_nothing_is_promised_and_afterwards_all_is_well(kit: BusKit) -> None:
    await kit.bus.ensure_stream()
    await kit.take_away()
    with pytest.raises(BusUnavailable):
        await kit.bus.publish(events(1, 100))
    with pytest.raises(BusUnavailable):
        await kit.bus.ensure_stream()
    await kit.bus.wake("gpu-01")
    await kit.bring_back()
    await kit.bus.ensure_stream()
    await kit.bus.publish(events(1, 10))
    assert len(await kit.messages()) == 10


async def test_a_wake_reaches_the_node_it_names_and_no_other(kit: BusKit) -> None:
    named, other = await kit.listen("gpu-01"), await kit.listen("gpu-02")
    await kit.bus.wake("gpu-01")

    async def woken() -> bool:
        return await named() == 1

    await eventually(woken)
    assert await other() == 0
