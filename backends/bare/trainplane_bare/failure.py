"""Why a training cannot go on, by the platform's words."""

from __future__ import annotations

import errno
import traceback


class Failure(Exception):  # noqa: N818 - it is what the job did, not an error of this code
    """Ends the training; the text names the field and says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def described(error: Exception) -> tuple[str, str]:
    """The reason and the message that the job shows for any error."""
    if isinstance(error, Failure):
        return error.reason, str(error)
    text = f"{type(error).__name__}: {error}"
    if type(error).__name__ == "OutOfMemoryError":
        return "OUT_OF_MEMORY_GPU", f"backend_options.micro_batch_size: lower it, or max_sequence_length ({text})"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return "OUT_OF_MEMORY_HOST", f"resources.memory_gb: raise it, or lower micro_batch_size ({text})"
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left" in text:
        return "DISK_FULL", f"the node's disk is full: {text}"
    return "TRAINER_CRASHED", "".join(traceback.format_exception(error))[-2000:]
