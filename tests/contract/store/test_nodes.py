from __future__ import annotations

from dataclasses import replace

from controlplane.domain.artifact import Artifact, Log
from controlplane.domain.node import Inventory, NodeState
from tests.support.builders import job, new_job, node


async def test_a_node_comes_back_as_it_was_saved_last(store):
    first = node("gpu-01")
    await store.write(lambda tx: tx.save_node(first))
    assert await store.read(lambda tx: tx.node("gpu-01")) == first

    changed = replace(
        first,
        state=NodeState.NOT_READY,
        reason="DISK_FULL",
        inventory=Inventory(not_ready_reason="disk", simulated=True),
        counter=1 << 40,
        last_sync_time_us=7,
    )
    await store.write(lambda tx: tx.save_node(changed))

    assert await store.read(lambda tx: tx.node("gpu-01")) == changed
    assert await store.read(lambda tx: tx.node("gpu-02")) is None


async def test_nodes_come_by_name(store):
    made = [node(name) for name in ("b", "B", "a-1")]
    await store.write(lambda tx: [tx.save_node(each) for each in made])

    assert [each.name for each in await store.read(lambda tx: tx.nodes())] == ["B", "a-1", "b"]


async def test_artifacts_come_by_path_and_repeats_change_nothing(store):
    made = job()
    one, two = (Artifact(made.uid, path, f"file:///{path}", 1 << 40, "00") for path in ("b.bin", "a.json"))

    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))
    await store.write(lambda tx: tx.insert_artifacts([one]))
    await store.write(lambda tx: tx.insert_artifacts([replace(one, size_bytes=5), two]))
    await store.write(lambda tx: tx.insert_artifacts([]))

    assert await store.read(lambda tx: tx.artifacts(made.uid)) == [two, one]


async def test_a_log_grows_and_logs_come_by_attempt_and_rank(store):
    made = job()
    await store.write(lambda tx: tx.insert_jobs([new_job(made)]))
    for log in (Log(made.uid, 2, 0, 5), Log(made.uid, 1, 1, 1), Log(made.uid, 1, 0, 3), Log(made.uid, 1, 0, 9)):
        await store.write(lambda tx, log=log: tx.save_log(log))

    assert await store.read(lambda tx: tx.log(made.uid, attempt=1, rank=0)) == Log(made.uid, 1, 0, 9)
    assert await store.read(lambda tx: tx.log(made.uid, attempt=3, rank=0)) is None
    assert [(log.attempt, log.rank) for log in await store.read(lambda tx: tx.logs(made.uid))] == [
        (1, 0),
        (1, 1),
        (2, 0),
    ]


async def test_a_fact_about_the_installation_is_empty_until_it_is_written(store):
    assert await store.read(lambda tx: tx.meta("stream")) == ""
    await store.write(lambda tx: tx.set_meta("stream", "one"))
    await store.write(lambda tx: tx.set_meta("stream", "two"))
    assert await store.read(lambda tx: tx.meta("stream")) == "two"
