"""Every NATS subject of trainplane, built and parsed here only.

Request/reply and wake subjects end in the node's name, so that the server's permissions, one user per node, decide who
speaks as whom; a name inside a payload would prove nothing.
"""

from __future__ import annotations

import re

PREFIX = "trainplane.v1"

SYNC = "sync"
CLAIM = "claim"
REPORT = "report"
COMMIT = "commit"
LOG = "log"
#: What an agent may ask the control plane.
REQUESTS = (SYNC, CLAIM, REPORT, COMMIT, LOG)

#: Where the control plane's own replies go: no node's name can come to it.
CONTROLPLANE_INBOX = "_CONTROLPLANE"
#: Where those of clients without credentials go: the default of NATS' client libraries.
ANONYMOUS_INBOX = "_INBOX"
_REPLY = "_REPLY"

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,63}")


def _token(text: str, *, what: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} must be 1 to 63 of A-Z a-z 0-9 _ -, got {text!r}")
    return text


def request(kind: str, node: str) -> str:
    """`trainplane.v1.<kind>.<node>`: an agent's request.

    Raises:
        ValueError: the node's name is no subject token.
    """
    return f"{PREFIX}.{kind}.{_token(node, what='node')}"


def requests(kind: str) -> str:
    """The wildcard under which the control plane hears every node's requests of one kind."""
    return f"{PREFIX}.{kind}.*"


def node_of(subject: str) -> str:
    """The node that a request's subject names."""
    return subject.rsplit(".", 1)[1]


def wake(node: str) -> str:
    """`trainplane.v1.wake.<node>`: without content; may be lost."""
    return f"{PREFIX}.wake.{_token(node, what='node')}"


def wakes() -> str:
    """The wildcard for all wakes."""
    return f"{PREFIX}.wake.*"


def probe(node: str) -> str:
    """`trainplane.v1.probe.<node>`: the control plane's question to a node; may be lost."""
    return f"{PREFIX}.probe.{_token(node, what='node')}"


def probes() -> str:
    """The wildcard for all such questions."""
    return f"{PREFIX}.probe.*"


def answer(node: str, token: str) -> str:
    """`trainplane.v1.answer.<node>.<token>`: where a node answers one question; the subject proves who does."""
    return f"{PREFIX}.answer.{_token(node, what='node')}.{_token(token, what='token')}"


def answers(node: str = "*") -> str:
    """The wildcard for the answers of a node, or of all."""
    return f"{PREFIX}.answer.{node}.*"


def inbox_prefix(node: str) -> str:
    """`_REPLY.<node>`: where a node's replies go; with it, no node hears another's."""
    return f"{_REPLY}.{_token(node, what='node')}"


def inboxes() -> str:
    """The wildcard for the replies to all nodes."""
    return f"{_REPLY}.>"


def event(*, project: str, job_id: str, event_type: str) -> str:
    """`trainplane.v1.events.<project>.<job_id>.<type, dots as dashes>`: where a job's event is published."""
    return (
        f"{PREFIX}.events.{_token(project, what='project')}.{_token(job_id, what='job_id')}"
        f".{event_type.replace('.', '-')}"
    )


def events(*, project: str = "*", job_id: str = "*") -> str:
    """The wildcard for all events of a job, of a project, or of all."""
    return f"{PREFIX}.events.{project}.{job_id}.*"
