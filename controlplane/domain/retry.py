"""Which failures are tried again, how often, and after how long.

Infrastructure losses have a budget apart from the user's `max_attempts`: a job is not to blame for its node.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum


class Policy(Enum):
    """What follows a failed attempt."""

    NEVER = "the user's or the platform's to mend: trying again would fail again"
    ATTEMPT = "tried again within max_attempts"
    INFRASTRUCTURE = "tried again within MAX_LOSSES"


#: Losses of one job that are forgiven.
MAX_LOSSES = 10

REASONS: dict[str, Policy] = {
    "ARTIFACTS_LOST": Policy.NEVER,
    "BUCKET_NOT_FOUND": Policy.NEVER,
    "CHAT_TEMPLATE_MISSING": Policy.NEVER,
    "CONFIG_INVALID": Policy.NEVER,
    "DATASET_EMPTY": Policy.NEVER,
    "DATASET_INVALID": Policy.NEVER,
    "DATASET_NOT_FOUND": Policy.NEVER,
    "DEADLINE_EXCEEDED": Policy.NEVER,
    "HUB_UNAUTHORIZED": Policy.NEVER,
    "LAYERS_NOT_FOUND": Policy.NEVER,
    "LOSS_NOT_FINITE": Policy.NEVER,
    "MERGE_INEXACT": Policy.NEVER,
    "MODEL_FORMAT_UNSUPPORTED": Policy.NEVER,
    "MODEL_NOT_FOUND": Policy.NEVER,
    "NOT_YET_SUPPORTED": Policy.NEVER,
    "OUTPUT_EXISTS": Policy.NEVER,
    "OUTPUT_IN_USE": Policy.NEVER,
    "OUT_OF_MEMORY_GPU": Policy.NEVER,
    "PRECISION_UNSUPPORTED": Policy.NEVER,
    "STORAGE_DENIED": Policy.NEVER,
    "TARGET_MODULES_NOT_FOUND": Policy.NEVER,
    "DISK_FULL": Policy.ATTEMPT,
    "OUT_OF_MEMORY_HOST": Policy.ATTEMPT,
    "STALLED": Policy.ATTEMPT,
    "TRAINER_CRASHED": Policy.ATTEMPT,
    "GANG_INCOMPLETE": Policy.INFRASTRUCTURE,
    "HUB_UNAVAILABLE": Policy.INFRASTRUCTURE,
    "NODE_LOST": Policy.INFRASTRUCTURE,
    "PREEMPTED": Policy.INFRASTRUCTURE,
    "STORAGE_UNAVAILABLE": Policy.INFRASTRUCTURE,
}

_DELAYS = (timedelta(seconds=2), timedelta(seconds=10), timedelta(seconds=60), timedelta(minutes=5))


def policy(reason: str) -> Policy:
    """What follows a failure; an unknown reason is tried again, as a crash is."""
    return REASONS.get(reason, Policy.ATTEMPT)


def delay(tries: int) -> timedelta:
    """How long to wait after so many failed tries; the last delay repeats."""
    return _DELAYS[min(max(tries, 1), len(_DELAYS)) - 1]
