"""A published output to the hub, too: one commit to a model's repository, with the job's own token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs.failures import HUB_UNAUTHORIZED, MODEL_NOT_FOUND, InputError
from agent.inputs.hub import Hub, Subject
from agent.inputs.models import TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.inputs.fetch import FetchJob

FIELD = "export.push_to_hub"
_PUSHED = Subject("model", FIELD, FIELD, MODEL_NOT_FOUND, use="write to")


def push(job: FetchJob, names: Sequence[str]) -> dict[str, Any]:
    """Commit the output's files; `commit` is the hub's. Repeatable: files that are there already change nothing.

    Never with the platform's token or the agent's: whoever submits a job could write to the platform's repositories.

    Args:
        job: whose.
        names: what to push of the attempt's `output/`.

    Raises:
        InputError: the hub does not take it.
    """
    token = job.secrets.get(TOKEN)
    if not token:
        raise InputError(HUB_UNAUTHORIZED, f"{FIELD}: the job's own token (base_model.auth_token) is gone")
    settings = job.settings
    hub = Hub(settings.hub_endpoint, token, Path(settings.cache_dir) / ".hub", settings.ca_bundle, _PUSHED)
    name = job.spec["export"]["push_to_hub"]
    return {"commit": hub.push(name, job.directory / "output", names, message=f"Result of training job {job.job_id}")}
