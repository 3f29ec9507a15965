"""Which trees groups are made in, read from /proc as kernels and container runtimes write it; v2's files as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent import cgroups
from agent.cgroups import Bounds, Cgroups

if TYPE_CHECKING:
    from pathlib import Path


def host(tmp_path: Path, *, mounts: list[str], own: list[str]) -> Path:
    process = tmp_path / "self"
    process.mkdir()
    (process / "mountinfo").write_text("\n".join(["23 1 0:5 / /proc rw - proc proc rw", *mounts]))
    (process / "cgroup").write_text("\n".join(own))
    return process


def tree(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text)
    return path


def mounted(point: Path, kind: str, options: str, *, root: str = "/") -> str:
    return f"31 23 0:28 {root} {point} rw,relatime shared:9 - {kind} {kind} {options}"


def test_v1_s_trees_are_those_of_memory_and_cpu_at_the_agent_s_own_place(tmp_path):
    memory, cpu = tree(tmp_path / "memory/svc"), tree(tmp_path / "cpu,cpuacct")
    process = host(
        tmp_path,
        mounts=[
            mounted(tmp_path / "memory", "cgroup", "rw,memory"),
            mounted(tmp_path / "cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mounted(tmp_path / "unified", "cgroup2", "rw"),
        ],
        own=["4:memory:/svc", "2:cpu,cpuacct:/", "0::/"],
    )
    found = cgroups.found(process)
    assert found.bases == (memory, cpu)
    assert found.shown() == "cgroup v1: memory and cpu"


def test_in_a_container_that_sees_only_its_part_of_the_tree_the_mount_is_the_place(tmp_path):
    memory = tree(tmp_path / "memory")
    mount = mounted(memory, "cgroup", "rw,memory", root="/docker/abc")
    process = host(tmp_path, mounts=[mount], own=["4:memory:/docker/abc"])
    found = cgroups.found(process)
    assert found.bases == (memory,)
    assert found.shown().startswith("cgroup v1: memory; cpu not enforced")


def test_v2_delegated_gives_bounds_and_the_agent_moves_to_a_leaf(tmp_path):
    base = tree(tmp_path / "cg/svc", cgroup__controllers="cpu io memory", cgroup__subtree_control="", cgroup__procs="")
    process = host(tmp_path, mounts=[mounted(tmp_path / "cg", "cgroup2", "rw")], own=["0::/svc"])
    found = cgroups.found(process)
    assert (found.bases, found.enforced) == ((base,), {"memory", "cpu"})
    assert found.shown() == "cgroup v2: memory and cpu"
    assert (base / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (base / "agent" / "cgroup.procs").read_text().isdigit()


def test_the_next_agent_that_finds_itself_in_the_leaf_uses_the_same_place(tmp_path):
    base = tree(tmp_path / "cg/svc", cgroup__controllers="cpu memory", cgroup__subtree_control="cpu memory")
    (base / "agent").mkdir()
    process = host(tmp_path, mounts=[mounted(tmp_path / "cg", "cgroup2", "rw")], own=["0::/svc/agent"])
    assert cgroups.found(process).bases == (base,)


def test_a_host_that_cannot_bound_says_what_and_why(tmp_path):
    base = tree(tmp_path / "cg", cgroup__controllers="memory", cgroup__subtree_control="memory")
    process = host(tmp_path, mounts=[mounted(base, "cgroup2", "rw")], own=["0::/"])
    assert cgroups.found(process).shown() == (
        f"cgroup v2: memory; cpu not enforced: {base} was not given the controller"
    )
    nothing = tmp_path / "b"
    nothing.mkdir()
    assert cgroups.found(host(nothing, mounts=[], own=[])).shown() == "none; this host mounts no cgroups"


@pytest.mark.parametrize("cpus", [1, 16])
def test_v2_s_group_is_bound_without_a_way_into_swap_and_ends_as_one(tmp_path, cpus):
    base = tree(tmp_path / "cg", cgroup__controllers="cpu memory")
    # The kernel puts the files there as it makes the directory.
    group = tree(base / "trainplane-a.1", cgroup__controllers="", memory__swap__max="max")
    made = Cgroups((base,), frozenset({"memory", "cpu"})).make("a.1", Bounds(1 << 30, cpus), tmp_path)
    assert made.paths == (group,)
    written = {file.name: file.read_text() for file in group.iterdir() if file.read_text()}
    assert written == {
        "memory.max": str(1 << 30),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": f"{cpus * 100_000} 100000",
    }
    assert made.kills_as_one
    assert made.entries == (f"{group}/cgroup.procs",)
    assert cgroups.Group.noted(tmp_path) == made


def test_v2_s_counts_are_read(tmp_path):
    events = "low 0\nhigh 0\nmax 90\noom 3\noom_kill 2\noom_group_kill 1\n"
    path = tree(
        tmp_path / "g",
        cgroup__controllers="",
        memory__max="1073741824\n",
        memory__peak="1073700000\n",
        memory__events=events,
    )
    used = cgroups.Group((path,)).memory()
    assert used == cgroups.MemoryUse(limit_bytes=1 << 30, peak_bytes=1_073_700_000, kills=2)
    (path / "memory.max").write_text("max\n")
    assert cgroups.Group((path,)).memory() == cgroups.MemoryUse(None, 1_073_700_000, 2)
