"""What one attempt is on this node: facts, and the stage that follows from them.

Nothing here does I/O or knows a clock; `agent.plan` decides from these facts what is done next.

    CLAIMING ─► CLAIMED ─► RUNNING ─► STAGING ─► PUBLISHING ─► ENDED
                   └──────────┴─── STOPPING ──────┘ (not from PUBLISHING) ──►
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Providers of models that are not on the node.
ELSEWHERE = frozenset({"huggingface", "s3"})
_NAME = re.compile(r"([A-Za-z0-9_-]{1,64})\.([1-9][0-9]{0,8})")


class InvalidAssignmentError(ValueError):
    """The control plane's assignment cannot be read; says which part of it."""


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """An attempt by name; `str()` is its directory's name and the marker in its processes' environment."""

    uid: str
    number: int

    def __str__(self) -> str:
        return f"{self.uid}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> AttemptKey | None:
        """The key that `text` names, or None if it names none."""
        match = _NAME.fullmatch(text)
        return cls(match[1], int(match[2])) if match else None


class Stage(enum.Enum):
    """How far an attempt is; the words of `AttemptStatus.Stage`."""

    CLAIMING = "CLAIMING"
    CLAIMED = "CLAIMED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STAGING = "STAGING"
    PUBLISHING = "PUBLISHING"
    ENDED = "ENDED"


class Commit(enum.Enum):
    """The control plane's answer to the commit question, as far as it is known."""

    UNKNOWN = "UNKNOWN"
    GRANTED = "GRANTED"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True)
class Process:
    """A process, so named that no later one can be taken for it.

    `start_ticks` counts the kernel's clock ticks from its boot; a pid that was given away again has another one.
    """

    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Gang:
    """This node's place among several that train together.

    Attributes:
        nodes: how many there are.
        node: which of them this one is; 0, the first, alone has reports and output.
        first_rank: of its ranks; every node has as many.
        address: where the ranks meet, on the first node.
        port: likewise.
        interface: the network interface of this node that leads there; empty: not known.
    """

    nodes: int
    node: int
    first_rank: int
    address: str
    port: int
    interface: str = ""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Gang:
        """Read `gang` of an assignment; what a later version adds is left out."""
        return cls(
            nodes=int(document["nodes"]),
            node=int(document["node"]),
            first_rank=int(document["first_rank"]),
            address=str(document["address"]),
            port=int(document["port"]),
            interface=str(document.get("interface", "")),
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """What to train: `assignment.json` of docs/trainer-contract.md."""

    key: AttemptKey
    job_id: str
    project: str
    spec: dict[str, Any]
    devices: tuple[str, ...]
    deadline_seconds: float | None
    checkpoint_grace_seconds: float | None = None
    """What a trainer that is stopped, or at its deadline, has for a last checkpoint; None: what it takes itself."""
    world_size: int = 1
    """Ranks to train with: one per device that is charged, real or simulated, on all nodes; 1 on CPUs alone."""
    gang: Gang | None = None
    """None: this node trains alone."""

    @classmethod
    def parse(cls, data: bytes) -> Assignment:
        """Read an assignment.

        Raises:
            InvalidAssignmentError: it is not JSON, or a part is missing or of a wrong type.
        """
        try:
            document = json.loads(data)
            deadline, grace = document.get("deadline_seconds"), document.get("checkpoint_grace_seconds")
            devices = tuple(str(device) for device in document.get("devices", []))
            return cls(
                key=AttemptKey(str(document["uid"]), int(document["attempt"])),
                job_id=str(document["job_id"]),
                project=str(document.get("project", "default")),
                spec=dict(document["spec"]),
                devices=devices,
                deadline_seconds=None if deadline is None else float(deadline),
                checkpoint_grace_seconds=None if grace is None else float(grace),
                # An assignment of before there were several ranks does not say.
                world_size=int(document.get("world_size", max(1, len(devices)))),
                gang=Gang.parse(document["gang"]) if document.get("gang") else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidAssignmentError(f"the assignment cannot be read: {type(error).__name__}: {error}") from error

    def to_json(self) -> bytes:
        """The file's content; `Assignment.parse` reads it back."""
        document = {
            "uid": self.key.uid,
            "job_id": self.job_id,
            "project": self.project,
            "attempt": self.key.number,
            "spec": self.spec,
            "devices": list(self.devices),
            "world_size": self.world_size,
            "deadline_seconds": self.deadline_seconds,
            "checkpoint_grace_seconds": self.checkpoint_grace_seconds,
            **({"gang": asdict(self.gang)} if self.gang else {}),
        }
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def leads(self) -> bool:
        """Whether what is trained is this node's to report, to keep and to publish."""
        return self.gang is None or self.gang.node == 0

    @property
    def first_rank(self) -> int:
        """The number of the first rank on this node."""
        return self.gang.first_rank if self.gang else 0

    @property
    def writes_far(self) -> bool:
        """Whether what it writes goes to an object store, which may refuse it: worth a look beforehand."""
        if not self.leads:
            return False
        places = (self.setting("artifacts.output_uri"), self.setting("artifacts.log_uri"))
        return any(place and not place.startswith("file:") for place in places)

    @property
    def pushes(self) -> bool:
        """Whether its output goes to the hub, too."""
        return bool(self.setting("export.push_to_hub"))

    @property
    def reads_inputs(self) -> bool:
        """Whether its trainer reads a model and rows at all; the fake one does not."""
        return bool(self.setting("backend") != "mock")

    @property
    def fetches(self) -> bool:
        """Whether its model, or a dataset, has to be brought here before it may start."""
        if not self.reads_inputs:
            return False
        sources = [dataset.get("source") or "" for dataset in self.setting("datasets") or ()]
        if any(source and not source.startswith("file://") for source in sources):
            return True
        return self.setting("base_model.provider") in ELSEWHERE or bool(self.setting("base_model.weights_url"))

    def setting(self, path: str) -> Any:
        """The spec's value at a dotted path, or None where it was not set."""
        value: Any = self.spec
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value


@dataclass(frozen=True, slots=True)
class Run:
    """The facts about one attempt.

    Attributes:
        key: which attempt.
        asked: this agent process has the claim's answer: secrets and watermark are in memory.
        claim_refused: the answer was no. Nothing stops for it: only a stop order stops.
        assignment: what to train, once known.
        checked: what it will write can be written.
        fetched: what it needs from elsewhere is on this node.
        resumed: the newest checkpoint that an earlier attempt left, if any, is on this node.
        started: a trainer was started, even if its process is not known any more.
        process: that trainer, alive or not.
        alive: that process lives.
        swept: after its end, no process that carries the attempt's marker was left.
        exit_status: of the trainer, negative for a signal; None while alive or if unknown.
        rebooted: the process belongs to an earlier boot of this host.
        last_kind: kind of the last terminal line in `reports.jsonl`; empty: none.
        stalled: that process shows no progress for too long.
        stop_reason: why it is being stopped; empty: it is not. Durable before anything is killed.
        own_stop: the agent itself wants the stop, which then is a failure for that reason.
        log_shipped: the log is with the control plane to its end, or need not be.
        staged_digest: the staged manifest's; empty: not staged.
        commit: the control plane's answer.
        published: the output is at its place; the line that says so may not be written yet.
    """

    key: AttemptKey
    asked: bool = False
    claim_refused: bool = False
    assignment: Assignment | None = None
    checked: bool = False
    fetched: bool = False
    resumed: bool = False
    started: bool = False
    process: Process | None = None
    alive: bool = False
    swept: bool = False
    exit_status: int | None = None
    rebooted: bool = False
    last_kind: str = ""
    stalled: bool = False
    stop_reason: str = ""
    own_stop: bool = False
    log_shipped: bool = False
    staged_digest: str = ""
    commit: Commit = Commit.UNKNOWN
    published: bool = False

    @property
    def ended(self) -> bool:
        """No process is left, the last line is written, and nothing more will be done."""
        return not self.alive and self.swept and self.last_kind in {"failed", "stopped", "published"}

    @property
    def stage(self) -> Stage:
        """How far the attempt is."""
        if self.ended:
            return Stage.ENDED
        if self.commit is Commit.GRANTED or self.published:
            return Stage.PUBLISHING
        if self.stop_reason:
            return Stage.STOPPING
        if self.started:
            done = self.last_kind == "finished" and not self.alive
            return Stage.STAGING if done else Stage.RUNNING
        return Stage.CLAIMING if self.assignment is None else Stage.CLAIMED
