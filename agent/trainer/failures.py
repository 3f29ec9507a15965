"""Why a training cannot go on: each failure carries the stable reason that the job will show.

    TrainingFailure
    ├── ConfigInvalid            CONFIG_INVALID
    ├── NotYetSupported          NOT_YET_SUPPORTED
    ├── DatasetInvalid           DATASET_INVALID
    ├── DatasetEmpty             DATASET_EMPTY
    ├── StorageDenied            STORAGE_DENIED
    ├── ChatTemplateMissing      CHAT_TEMPLATE_MISSING
    ├── ModelNotFound            MODEL_NOT_FOUND
    ├── ModelFormatUnsupported   MODEL_FORMAT_UNSUPPORTED
    ├── TargetModulesNotFound    TARGET_MODULES_NOT_FOUND
    ├── LayersNotFound           LAYERS_NOT_FOUND
    ├── PrecisionUnsupported     PRECISION_UNSUPPORTED
    ├── LossNotFinite            LOSS_NOT_FINITE
    ├── MergeInexact             MERGE_INEXACT
    ├── DiskFull                 DISK_FULL
    ├── PeerLost                 NODE_LOST
    └── OutOfGpuMemory           OUT_OF_MEMORY_GPU

Their messages are for the user: they name the spec's field and say what to do. `describe` gives a reason to
errors that are not ours; DEADLINE_EXCEEDED is told by who watches the clock (`warden.py`, `leader.py`).
"""

from __future__ import annotations

import errno
import os
import traceback

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TRACEBACK_LINES = 12


class TrainingFailure(Exception):  # noqa: N818 - it is what the user's job did, not an error of this code
    """The training cannot go on; `str()` is the message for the user."""

    reason = "TRAINER_CRASHED"


class PeerLost(TrainingFailure):
    """Another node of a gang is not to be reached, and nobody says why."""

    reason = "NODE_LOST"


class ConfigInvalid(TrainingFailure):
    """The assignment's spec says something that cannot be done."""

    reason = "CONFIG_INVALID"


class NotYetSupported(TrainingFailure):
    """The spec asks for what this version does not do."""

    reason = "NOT_YET_SUPPORTED"


class DatasetInvalid(TrainingFailure):
    """A dataset is not what its format says; the message names file, row and field."""

    reason = "DATASET_INVALID"


class DatasetEmpty(TrainingFailure):
    """Nothing is left to train on."""

    reason = "DATASET_EMPTY"


class StorageDenied(TrainingFailure):
    """A file may not be read by the trainer's user."""

    reason = "STORAGE_DENIED"


class ChatTemplateMissing(TrainingFailure):
    """Rows with `messages` and no template to render them."""

    reason = "CHAT_TEMPLATE_MISSING"


class ModelNotFound(TrainingFailure):
    """There is no model at the place named."""

    reason = "MODEL_NOT_FOUND"


class ModelFormatUnsupported(TrainingFailure):
    """There is something, but not a model that is safe and possible to load."""

    reason = "MODEL_FORMAT_UNSUPPORTED"


class TargetModulesNotFound(TrainingFailure):
    """A name in `customization.target_modules` matches no module that can be adapted."""

    reason = "TARGET_MODULES_NOT_FOUND"


class LayersNotFound(TrainingFailure):
    """A name in `customization.trainable_layers` is no part of the model."""

    reason = "LAYERS_NOT_FOUND"


class PrecisionUnsupported(TrainingFailure):
    """The device cannot compute in the precision asked for."""

    reason = "PRECISION_UNSUPPORTED"


class LossNotFinite(TrainingFailure):
    """The loss or its gradient became NaN or infinite."""

    reason = "LOSS_NOT_FINITE"


class MergeInexact(TrainingFailure):
    """The merged model is not what was trained, or cannot be made."""

    reason = "MERGE_INEXACT"


class DiskFull(TrainingFailure):
    """The node's disk has no room for what a training must write."""

    reason = "DISK_FULL"


class OutOfGpuMemory(TrainingFailure):
    """Not even the smallest micro-batch fits."""

    reason = "OUT_OF_MEMORY_GPU"


def describe_deadline(seconds: float) -> str:
    """The message of DEADLINE_EXCEEDED."""
    return f"resources.max_duration_minutes: the {seconds:.0f} s that were left for this job at its start are over"


def describe(error: BaseException) -> tuple[str, str]:
    """The reason and the message that a job shows for any error that ended its trainer.

    torch is not imported for this: an error of torch's is known by its name.
    """
    if isinstance(error, TrainingFailure):
        return error.reason, str(error)
    text = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return "OUT_OF_MEMORY_GPU", f"the device's memory is full: {text}"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return (
            "OUT_OF_MEMORY_HOST",
            f"the host's memory is full; raise resources.memory_gb or lower max_sequence_length ({text})",
        )
    # Libraries in other languages have the words only.
    if getattr(error, "errno", None) in DISK_FULL_ERRNOS or any(os.strerror(no) in text for no in DISK_FULL_ERRNOS):
        return "DISK_FULL", (
            f"the node's disk is full: {text}; free some, give the agent a larger data_dir, or keep fewer checkpoints "
            "(tuning_parameters.checkpoint_limit)"
        )
    lines = "".join(traceback.format_exception(error)).strip().splitlines()
    return "TRAINER_CRASHED", "\n".join(lines[-TRACEBACK_LINES:])
