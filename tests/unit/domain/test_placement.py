"""Placement: all devices or none, best fit, and the words for why not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.attempt import Attempt, AttemptState
from controlplane.domain.capacity import matches
from controlplane.domain.job import Requirement
from controlplane.domain.node import Gpu, Inventory, Node, NodeState
from controlplane.domain.placement import capacities, could_ever, place, too_large, why_not

GIB = 2**30


def node(
    name, *, gpus=0, kind="NVIDIA A100-SXM4-80GB", memory=80, cpus=64, memory_gb=512, state=NodeState.READY, **inventory
):
    devices = tuple(Gpu(i, kind, memory * GIB) for i in range(gpus))
    return Node(
        name, state, "SILENT" if state is NodeState.NOT_READY else "",
        Inventory(devices, cpus, memory_gb * GIB, **inventory), "1", "boot", 1, 1, 1, 0,
    )  # fmt: skip


def attempt(on, devices, *, state=AttemptState.CLAIMED, cpus=1, memory_gb=1):
    return Attempt("u", 1, on, tuple(devices), cpus, memory_gb * GIB, state, 0)


def test_a_job_gets_all_its_devices_or_none():
    free = capacities([node("a", gpus=4)], [attempt("a", [0, 2])])
    assert place(Requirement(gpus=2), free).devices == (1, 3)
    assert place(Requirement(gpus=3), free) is None


def test_the_tightest_node_wins_so_that_big_holes_stay():
    free = capacities([node("big", gpus=8), node("small", gpus=2)], [])
    assert place(Requirement(gpus=1), free).node == "small"
    assert place(Requirement(gpus=4), free).node == "big"


def test_devices_of_a_lost_attempt_stay_charged():
    free = capacities([node("a", gpus=1)], [attempt("a", [0], state=AttemptState.LOST)])
    assert place(Requirement(gpus=1), free) is None


def test_a_gpu_type_matches_by_its_words_in_any_case():
    assert matches("a100-80gb", "NVIDIA A100-SXM4-80GB")
    assert matches("A100", "NVIDIA A100-SXM4-80GB")
    assert not matches("A10", "NVIDIA A100-SXM4-80GB")
    assert not matches("A100-40GB", "NVIDIA A100-SXM4-80GB")


def test_only_ready_nodes_with_the_labels_and_the_name_asked_for_are_used():
    nodes = [node("a", gpus=1, state=NodeState.NOT_READY), node("b", gpus=1, labels={"zone": "x"})]
    free = capacities(nodes, [])
    assert place(Requirement(gpus=1, labels={"zone": "y"}), free) is None
    assert place(Requirement(gpus=1, node="a"), free) is None
    assert place(Requirement(gpus=1, labels={"zone": "x"}), free).node == "b"


def test_a_waiting_job_says_what_would_help():
    need = Requirement(gpus=4, gpu_type="A100")
    assert why_not(need, []) == "needs 4 x A100; no node has joined"
    assert why_not(need, capacities([node("cpu")], [])) == "needs 4 x A100; no node has A100"
    assert why_not(need, capacities([node("a", gpus=2)], [])) == "needs 4 x A100; the largest node has 2"
    three = [node(f"n{i}", gpus=4) for i in range(3)]
    taken = [attempt("n0", range(4)), attempt("n1", range(3)), attempt("n2", range(3))]
    assert why_not(need, capacities(three, taken)) == "needs 4 x A100; the 3 nodes that have A100 have 2 free"
    asleep = capacities([node("a", gpus=4, state=NodeState.NOT_READY)], [])
    assert why_not(need, asleep) == "needs 4 x A100; 1 node could take it and none is ready: a (SILENT)"
    small = capacities([node("a", gpus=4, cpus=8, memory_gb=16)], [])
    assert "no node has both: at most 8 CPUs and 16 GiB" in why_not(
        Requirement(gpus=4, cpus=16, memory_bytes=GIB), small
    )
    busy = capacities([node("a", cpus=4)], [attempt("a", [], cpus=3)])
    assert why_not(Requirement(cpus=2), busy).startswith(
        "needs 2 CPUs and 1 GiB; 1 node could take it, with at most 1 CPUs"
    )


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 16)), max_size=30),
)
def test_no_device_and_no_cpu_is_promised_twice(sizes, wishes):
    nodes = [node(f"n{i}", gpus=size, cpus=32) for i, size in enumerate(sizes)]
    charged = []
    for gpus, cpus in wishes:
        need = Requirement(gpus=gpus, cpus=cpus)
        chosen = place(need, capacities(nodes, charged))
        if chosen is None:
            assert why_not(need, capacities(nodes, charged))
            continue
        assert len(set(chosen.devices)) == gpus
        charged.append(attempt(chosen.node, chosen.devices, cpus=cpus))
    for one in nodes:
        held = [d for a in charged if a.node == one.name for d in a.devices]
        assert len(held) == len(set(held))
        assert set(held) <= {g.index for g in one.inventory.gpus}
        assert sum(a.cpus for a in charged if a.node == one.name) <= 32


def test_what_fits_no_device_says_how_much_the_largest_has():
    nodes = [node("a", gpus=4), node("b", gpus=1, kind="NVIDIA L4")]
    assert too_large(Requirement(gpus=1), nodes, 79 * GIB, bounded=False) == ""
    said = too_large(Requirement(gpus=4, gpu_type="A100"), nodes, 100 * GIB, bounded=False)
    assert said.startswith("needs about 100.0 GiB of memory on each A100; the largest A100 has 80.0 GiB: lower ")


def test_a_job_goes_where_its_model_fits_and_says_what_the_largest_device_has_where_it_fits_nowhere():
    small = node("small", gpus=1, kind="NVIDIA A100-PCIE-40GB", memory=40)
    nodes = [small, node("large", gpus=4)]
    need = Requirement(gpus=1, gpu_type="A100", device_bytes=60 * GIB)
    assert place(need, capacities(nodes, [])).node == "large"
    assert place(replace(need, device_bytes=39.5 * GIB), capacities(nodes, [])).node == "small"
    said = why_not(need, capacities([small], []))
    assert said == (
        "needs at least 60.0 GiB of memory on each A100, for its weights and what is trained of them; the largest A100 "
        "has 40.0 GiB: train with method qlora, a smaller model or more GPUs, or add such a device"
    )
    # What is wanting otherwise is said as ever.
    assert why_not(replace(need, gpu_type="H100"), capacities(nodes, [])) == "needs 1 x H100; no node has H100"
    assert "2 free" in why_not(replace(need, gpus=3), capacities(nodes, [attempt("large", [0, 1])]))
    unknown = node("unknown", gpus=1, memory=0)
    assert place(need, capacities([unknown], [])).node == "unknown"


def test_a_job_without_devices_has_the_memory_that_it_asked_for_or_its_node_s():
    nodes = [node("a", memory_gb=64)]
    need = Requirement(memory_bytes=8 * GIB)
    assert too_large(need, nodes, 9 * GIB, bounded=False) == ""
    assert "resources.memory_gb gives 8.0 GiB" in too_large(need, nodes, 9 * GIB, bounded=True)
    assert "the largest node has 64.0 GiB" in too_large(need, nodes, 65 * GIB, bounded=False)


# several nodes


def reachable(name, **more):
    return node(name, rendezvous_address=f"{name}.internal", **more)


EIGHT = Requirement(gpus=8, gpu_type="A100", cpus=4, spreads=True)


def shares(chosen):
    return {share.node: share.devices for share in chosen.shares}


def test_what_no_node_could_ever_hold_gets_as_few_nodes_as_can_be_had_with_equal_shares():
    free = capacities([reachable(f"n{i}", gpus=4) for i in range(3)], [])
    assert shares(place(EIGHT, free)) == {"n0": (0, 1, 2, 3), "n1": (0, 1, 2, 3)}
    busy = capacities([reachable(f"n{i}", gpus=4) for i in range(5)], [attempt(f"n{i}", [0, 1]) for i in range(5)])
    assert shares(place(EIGHT, busy)) == {f"n{i}": (2, 3) for i in range(4)}
    assert place(Requirement(gpus=7, spreads=True), free) is None


def test_a_job_that_fits_a_node_is_never_split():
    nodes = [reachable("big", gpus=8), reachable("a", gpus=4), reachable("b", gpus=4)]
    assert shares(place(EIGHT, capacities(nodes, []))) == {"big": tuple(range(8))}
    taken = capacities(nodes, [attempt("big", [0])])
    assert place(EIGHT, taken) is None
    assert why_not(EIGHT, taken) == "needs 8 x A100; the node that has A100 has 7 free"


def test_an_engine_that_does_not_spread_and_a_job_for_a_named_node_get_one():
    free = capacities([reachable("a", gpus=4), reachable("b", gpus=4)], [])
    assert place(replace(EIGHT, spreads=False), free) is None
    assert place(replace(EIGHT, node="a"), free) is None
    assert not could_ever(replace(EIGHT, spreads=False), [c.node for c in free])
    assert could_ever(EIGHT, [c.node for c in free])


def test_the_nodes_of_a_gang_fit_tightly_are_alike_and_reachable():
    mixed = [
        reachable("a", gpus=4, kind="NVIDIA A100-SXM4-40GB"),
        reachable("b", gpus=6),
        reachable("c", gpus=4),
        reachable("d", gpus=4, simulated=True),
        node("e", gpus=4),
        reachable("f", gpus=4, cpus=2),
        reachable("g", gpus=4, state=NodeState.NOT_READY),
    ]
    chosen = place(EIGHT, capacities(mixed, []))
    assert shares(chosen) == {"c": (0, 1, 2, 3), "b": (0, 1, 2, 3)}
    left = [c.less(chosen, EIGHT) for c in capacities(mixed, [])]
    assert {c.node.name: (len(c.gpus), c.cpus) for c in left if c.node.name in "bce"} == {
        "b": (2, 60), "c": (0, 60), "e": (4, 64),
    }  # fmt: skip


def test_a_waiting_gang_says_what_would_help():
    two = [reachable("a", gpus=4), reachable("b", gpus=4)]
    one_busy = capacities(two, [attempt("a", [0])])
    assert why_not(EIGHT, one_busy) == ("needs 8 x A100 on 2 nodes of 4; of the 2 that could take part 1 has 4 free")
    asleep = [two[0], reachable("b", gpus=4, state=NodeState.NOT_READY)]
    assert why_not(EIGHT, capacities(asleep, [])) == (
        "needs 8 x A100 on 2 nodes of 4; 1 of the 2 nodes that could take part is ready: b (SILENT) is not"
    )
    silent = capacities([two[0], node("b", gpus=4)], [])
    assert why_not(EIGHT, silent) == (
        "needs 8 x A100; the largest node has 4, and no nodes with equal shares, each with 4 CPUs and 1 GiB, "
        "hold it together; 1 node without a rendezvous address (b)"
    )
    tight = capacities(two, [attempt("a", [], cpus=62)])
    assert why_not(EIGHT, tight) == (
        "needs 8 x A100 on 2 nodes of 4, with 4 CPUs and 1 GiB each; too few of the 2 that have 4 free have those"
    )
    assert why_not(EIGHT, capacities([reachable("a")], [])) == "needs 8 x A100; no node has A100"


def test_what_fits_no_device_of_a_gang_says_so():
    nodes = [reachable("a", gpus=4), reachable("b", gpus=4)]
    assert too_large(EIGHT, nodes, 79 * GIB, bounded=False) == ""
    assert "the largest A100 has 80.0 GiB" in too_large(EIGHT, nodes, 100 * GIB, bounded=False)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 16)), max_size=20),
)
def test_a_gang_is_promised_no_device_and_no_cpu_twice(sizes, wishes):
    nodes = [reachable(f"n{i}", gpus=size, cpus=32) for i, size in enumerate(sizes)]
    charged = []
    for gpus, cpus in wishes:
        need = Requirement(gpus=gpus, cpus=cpus, spreads=True)
        chosen = place(need, capacities(nodes, charged))
        if chosen is None:
            assert why_not(need, capacities(nodes, charged))
            continue
        assert len({len(share.devices) for share in chosen.shares}) == 1
        assert sum(len(share.devices) for share in chosen.shares) == gpus
        assert len(chosen.shares) == 1 or gpus > max(sizes)
        charged += [attempt(share.node, share.devices, cpus=cpus) for share in chosen.shares]
    for one in nodes:
        held = [d for a in charged if a.node == one.name for d in a.devices]
        assert len(held) == len(set(held))
        assert set(held) <= {g.index for g in one.inventory.gpus}
        assert sum(a.cpus for a in charged if a.node == one.name) <= 32
