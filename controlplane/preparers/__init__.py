"""Preparing submits on another core while many come: the control plane's side of the child process.

    few at once ──► in place: no hand-off, no wait
    a crowd ──► frame ──► child: parse, check, seal, render ──► frame ──► stored

One Python process is one core. Checking a spec and rendering its answer is half of what a submit costs; done in a
child, the other half (gRPC, SQL) gets a core for itself (ADR 0018). The child is started by the first crowd and ended
after a quiet time. It holds no state: where it is missing, late or dead, the same function runs in place.
"""

from controlplane.preparers.crowd import CrowdPreparer

__all__ = ["CrowdPreparer"]
