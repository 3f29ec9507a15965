"""One control group per attempt: what it may use of this host, who belongs to it, and what died for want of memory.

Groups lie below the agent's own, in cgroup v2 or, where that has no controllers, in v1's trees for memory and CPU:

    <the agent's own>/trainplane-<uid>.<attempt>      v2: one; v1: one in each tree

A trainer's shell enters by itself before it becomes anything else, so that no byte is charged elsewhere. In v1 it does
so by `tasks`, which moves one thread without the lock that `cgroup.procs` waits some 15 ms for. Paths are noted in the
attempt's directory first: the next agent may itself run in another group (docs/adr/0017).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "trainplane-"
_NOTE = "group.json"
_PERIOD_US = 100_000
#: v1 says "no bound" by a number near 2^63.
_UNBOUND_BYTES = 1 << 62
#: The leaf that an agent moves itself to: v2 gives controllers only to groups whose parent has no process of its own.
_OWN_LEAF = "agent"
#: v1's counterparts of v2's controllers, in the trees that bear their names.
_CONTROLLERS = ("memory", "cpu")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an attempt may use at most; None: whatever there is."""

    memory_bytes: int | None = None
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a group used of its memory.

    Attributes:
        limit_bytes: its bound; None: it has none, and only the host's or the agent's own counts.
        peak_bytes: the most that was charged to it.
        kills: how many of its processes the kernel ended for want of memory, whoever's bound it was.
    """

    limit_bytes: int | None
    peak_bytes: int
    kills: int


@dataclass(frozen=True, slots=True)
class Group:
    """One attempt's group, in as many trees as there are. None of its calls fails for a group that is gone."""

    paths: tuple[Path, ...]

    @classmethod
    def noted(cls, directory: Path) -> Group:
        """The one that `make` noted in an attempt's directory; without trees if there was none."""
        try:
            return cls(tuple(map(Path, json.loads((directory / _NOTE).read_text(encoding="utf-8"))["paths"])))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(())

    @property
    def entries(self) -> tuple[str, ...]:
        """The files through which a process enters by writing `0` to them."""
        return tuple(str(path / ("cgroup.procs" if _is_v2(path) else "tasks")) for path in self.paths)

    @property
    def kills_as_one(self) -> bool:
        """Whether the kernel, out of memory, ends the whole group; v1 ends one process of it."""
        return all((path / "memory.oom.group").exists() for path in self.paths)

    def pids(self) -> frozenset[int]:
        """Who belongs to it, or to a group made inside it."""
        files = [file for path in self.paths for file in path.rglob("cgroup.procs")]
        return frozenset(int(pid) for file in files for pid in _read(file).split())

    def kill(self) -> None:
        """SIGKILL all of it at once, where the kernel can; else whoever is in it now."""
        for path in self.paths:
            with contextlib.suppress(OSError):
                (path / "cgroup.kill").write_text("1")
                return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                held = os.pidfd_open(pid)
                try:
                    if pid in self.pids():  # and not a stranger, who was given the number in between
                        signal.pidfd_send_signal(held, signal.SIGKILL)
                finally:
                    os.close(held)

    def memory(self) -> MemoryUse | None:
        """What it used; None where memory is not counted."""
        for path in self.paths:
            if _is_v2(path):
                limit, peak, events = "memory.max", "memory.peak", "memory.events"
            else:
                limit, peak, events = "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
            if bound := _read(path / limit):
                kills = dict(line.split() for line in _read(path / events).splitlines()).get("oom_kill", "0")
                limit_bytes = int(bound) if bound.isdigit() and int(bound) < _UNBOUND_BYTES else None
                return MemoryUse(limit_bytes, int(_read(path / peak) or 0), int(kills))
        return None

    def remove(self) -> bool:
        """Remove it, and groups made inside it; False while somebody is still in it."""
        for path in self.paths:
            try:
                for inner in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                    inner.rmdir()
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.EBUSY:
                    return False
                raise
        return True


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where groups of attempts are made.

    Attributes:
        bases: the directories below which they are made, one per tree; none: there are no groups here.
        enforced: what of `memory` and `cpu` a group can bound.
        lacking: why something cannot be bound, in words; empty: all can.
    """

    bases: tuple[Path, ...] = ()
    enforced: frozenset[str] = frozenset()
    lacking: str = ""

    def shown(self) -> str:
        """For the log: what is enforced by what, and what is not and why."""
        version = "v2" if any(_is_v2(base) for base in self.bases) else "v1"
        names = " and ".join(sorted(self.enforced, reverse=True))
        said = f"cgroup {version}: {names or 'kill only'}" if self.bases else "none"
        return f"{said}; {self.lacking}" if self.lacking else said

    def make(self, name: str, bounds: Bounds, directory: Path) -> Group:
        """Make a group, noting it in the attempt's directory first. What cannot be enforced here is left out.

        Raises:
            OSError: the kernel refuses; nothing is left.
        """
        group = Group(tuple(base / f"{_PREFIX}{name}" for base in self.bases))
        if group.paths:
            (directory / _NOTE).write_text(json.dumps({"paths": [str(path) for path in group.paths]}))
        try:
            for path in group.paths:
                path.mkdir(exist_ok=True)
                _bind(path, bounds, self.enforced)
        except OSError:
            group.remove()
            raise
        return group


def _bind(path: Path, bounds: Bounds, enforced: frozenset[str]) -> None:
    memory = bounds.memory_bytes if "memory" in enforced else None
    cpus = bounds.cpus if "cpu" in enforced else None
    v2 = _is_v2(path)
    if memory is not None and v2:
        (path / "memory.max").write_text(str(memory))
        (path / "memory.oom.group").write_text("1")
        _write_if_there(path / "memory.swap.max", "0")
    elif memory is not None and (path / "memory.limit_in_bytes").exists():
        (path / "memory.limit_in_bytes").write_text(str(memory))
        _write_if_there(path / "memory.memsw.limit_in_bytes", str(memory))
    if cpus is not None and v2:
        (path / "cpu.max").write_text(f"{cpus * _PERIOD_US} {_PERIOD_US}")
    elif cpus is not None and (path / "cpu.cfs_quota_us").exists():
        (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (path / "cpu.cfs_quota_us").write_text(str(cpus * _PERIOD_US))


def _write_if_there(file: Path, text: str) -> None:
    """Swap is accounted for only by some kernels; where it is, a bound on memory must not be a way into swap."""
    if file.exists():
        file.write_text(text)


def found(process: Path = Path("/proc/self")) -> Cgroups:
    """The trees below whose part of this process groups can be made; moves this process to a leaf if v2 asks for it.

    Args:
        process: its directory in /proc, with `cgroup` and `mountinfo`.
    """
    places = dict(_own_places(process))
    v2, v1 = places.get(""), {name: places[name] for name in _CONTROLLERS if name in places}
    if "memory" in v1:
        bases = tuple(dict.fromkeys(path for path in v1.values() if os.access(path, os.W_OK)))
        enforced = frozenset(name for name, path in v1.items() if path in bases)
        return Cgroups(bases, enforced, _lacking(enforced, "no cgroup of this user's to write to"))
    if v2 is None:
        return Cgroups(lacking="this host mounts no cgroups")
    base = v2.parent if v2.name == _OWN_LEAF else v2
    if not os.access(base, os.W_OK):
        return Cgroups(lacking=f"{base} may not be written; under systemd set Delegate=yes")
    enforced, why = _delegated(base)
    return Cgroups((base,), enforced, _lacking(enforced, why))


def _lacking(enforced: frozenset[str], why: str) -> str:
    missing = [name for name in _CONTROLLERS if name not in enforced]
    return f"{' and '.join(missing)} not enforced: {why}" if missing else ""


def _delegated(base: Path) -> tuple[frozenset[str], str]:
    """Which controllers groups below a v2 base have, after asking for them; and why one is missing."""
    offered = set(_read(base / "cgroup.controllers").split()) & set(_CONTROLLERS)
    try:
        if not offered <= set(_read(base / "cgroup.subtree_control").split()):
            leaf = base / _OWN_LEAF
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(os.getpid()))
            (base / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(offered)))
    except OSError as error:
        why = f"{base} is shared with other processes; give the agent a group of its own (systemd: Delegate=yes)"
        return frozenset(), why if error.errno == errno.EBUSY else f"{base}: {error.strerror}"
    return frozenset(offered), f"{base} was not given the controller"


def _own_places(process: Path) -> Iterator[tuple[str, Path]]:
    """Controller and directory of each tree that the process is in; v2 goes by the empty name."""
    mounts: dict[str, tuple[str, str]] = {}
    for line in _read(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            root, point = before.split(" ")[3:5]
            for name in [""] if kind == "cgroup2" else options.split(" ")[-1].split(","):
                mounts[name] = (root, point)
    for line in _read(process / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            if name in mounts:
                root, point = mounts[name]
                # A container may see only its own part of the tree, and not its path in it.
                inner = path.removeprefix(root) if root != "/" and path.startswith(root) else path
                place = Path(point) / inner.strip("/")
                yield name, place if place.is_dir() else Path(point)


def _is_v2(path: Path) -> bool:
    return (path / "cgroup.controllers").exists()


def _read(file: Path) -> str:
    """A kernel file's text; empty where there is none, or no more."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
