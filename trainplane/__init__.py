"""trainplane: POST a fine-tuning job, and your own GPUs train it.

The client's names are loaded when they are first used: the control plane and the agent import `trainplane.v1` and
`trainplane.wire`, and pay for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainplane.client import Client, ClientSettings
    from trainplane.errors import TrainplaneError
    from trainplane.sdk.blocking import BlockingClient
    from trainplane.sdk.retrying import RetryPolicy

_PLACES = {
    "BlockingClient": "trainplane.sdk.blocking",
    "Client": "trainplane.client",
    "ClientSettings": "trainplane.client",
    "RetryPolicy": "trainplane.sdk.retrying",
    "TrainplaneError": "trainplane.errors",
}

__all__ = ["BlockingClient", "Client", "ClientSettings", "RetryPolicy", "TrainplaneError"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
