"""Taking submits on another core while many come: the control plane's side of the child process.

    few at once ──► in place: no hand-off, no wait
    a crowd ──► frame ──► child: parse, check, seal, render; ONE transaction ──► frame ──► announced, answered

One Python process is one core. Everything of a submit but gRPC and what follows from it is done in the child, so that
gRPC has a core for itself (ADR 0027). The child is started by the first crowd and ended after a quiet time. It holds no
state: what it owes when it is late or dead is taken in place, under the same uid, so that nothing is stored twice.
"""

from controlplane.submitter.crowd import CrowdSubmitter

__all__ = ["CrowdSubmitter"]
