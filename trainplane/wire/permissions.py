"""Who may say and hear what on NATS: allow-lists, which the server enforces.

    user            publishes                                    hears
    a node          its own requests and answers                 its replies, its wakes and probes
    control plane   wakes, probes, events, replies, the stream   every node's requests and answers, its replies
    anonymous       requests to read the events stream           events, its replies

Reply subjects are apart: `_REPLY.<node>.>` of nodes, `_CONTROLPLANE.>`, and a client library's default `_INBOX.>` of
anonymous readers, so that a wildcard of one covers nothing of another.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.wire import streams, subjects


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects that a user may publish on and subscribe to; all others are refused. Empty: none at all."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def node(name: str) -> Permissions:
    """An agent's: only subjects that end in its own name, so that the subject proves who speaks.

    Raises:
        ValueError: the name is no subject token.
    """
    return Permissions(
        publish=(*(subjects.request(kind, name) for kind in subjects.REQUESTS), subjects.answers(name)),
        subscribe=(f"{subjects.inbox_prefix(name)}.>", subjects.wake(name), subjects.probe(name)),
    )


def control_plane() -> Permissions:
    """The control plane's. It cannot publish requests, so no reply subject can make it speak as a node."""
    name = streams.EVENTS.name
    return Permissions(
        publish=(
            subjects.wakes(),
            subjects.probes(),
            subjects.events(),
            subjects.inboxes(),
            *(f"$JS.API.STREAM.{verb}.{name}" for verb in ("INFO", "CREATE", "UPDATE")),
        ),
        subscribe=(
            *(subjects.requests(kind) for kind in subjects.REQUESTS),
            subjects.answers(),
            f"{subjects.CONTROLPLANE_INBOX}.>",
        ),
    )


def anonymous() -> Permissions:
    """A reader of the events stream: core subscription, and consumers of that one stream without acknowledgements.

    By `STREAM.NAMES` a client library looks up a subject's stream. `$JS.FC` answers flow control, without which the
    server stops sending to an ordered consumer. `$JS.ACK` is left out: it would let anyone acknowledge for others.
    """
    name = streams.EVENTS.name
    return Permissions(
        publish=(
            "$JS.API.STREAM.NAMES",
            f"$JS.API.STREAM.INFO.{name}",
            f"$JS.API.CONSUMER.CREATE.{name}",
            f"$JS.API.CONSUMER.CREATE.{name}.>",
            f"$JS.API.CONSUMER.INFO.{name}.*",
            f"$JS.API.CONSUMER.MSG.NEXT.{name}.*",
            f"$JS.FC.{name}.>",
        ),
        subscribe=(subjects.events(), f"{subjects.ANONYMOUS_INBOX}.>"),
    )
