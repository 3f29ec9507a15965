"""A look at a job's model before a device is charged for it: is it there, for this token, in a form that loads?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.inputs import choice, models
from agent.inputs.datasets import blamed
from agent.inputs.failures import MODEL_NOT_FOUND, InputError
from agent.inputs.models import MODEL_NAME, ModelWanted
from agent.storage import UnsupportedURIError, open_storage

if TYPE_CHECKING:
    from agent.inputs.fetch import FetchJob


def probe(job: FetchJob) -> dict[str, Any]:
    """What is known about the model: `outcome` PASSED with its commit, or SKIPPED where only fetching will tell.

    Raises:
        InputError: it cannot be had. What may pass says so: it is no verdict.
    """
    wanted = ModelWanted.of(job.spec)
    s3 = wanted.weights_url or wanted.name
    if s3.startswith("s3://"):
        field = "base_model.weights_url" if wanted.weights_url else MODEL_NAME
        access = job.access(field)
        prefix = s3.rstrip("/")
        try:
            names = [name for name in open_storage(f"{prefix}/", access).names() if "/" not in name]
        except (OSError, UnsupportedURIError) as error:
            raise blamed(error, access, missing=MODEL_NOT_FOUND) from error
        if not names:
            raise InputError(MODEL_NOT_FOUND, f"{field}: there is nothing below {prefix}/")
        choice.model_files(f"{prefix}/", names, field=field)
        return {"outcome": "PASSED", "commit": ""}
    if wanted.provider != "huggingface":
        return {"outcome": "SKIPPED", "commit": ""}
    snapshot = models.look(job.hub(), wanted)
    return {"outcome": "PASSED", "commit": snapshot.commit}
