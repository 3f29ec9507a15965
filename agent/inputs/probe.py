"""A look at a job's model before a device is charged for it: is it there, for this token, in a form that loads?"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs import choice, models, push, sampling
from agent.inputs.datasets import blamed
from agent.inputs.failures import CONFIG_INVALID, MODEL_NOT_FOUND, InputError
from agent.inputs.models import MODEL_NAME, ModelWanted
from agent.storage import UnsupportedURIError, open_storage
from trainplane.backends import gguf_support

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.inputs.fetch import FetchJob

SHAPE_SECONDS = 4.0
"""For the headers of the weights, which may be many files: the agent gives up on the whole look after 10 s."""


def look(job: FetchJob) -> dict[str, Any]:
    """What `probe` knows, with `facts`: what was seen of the model that tells what its training takes on a GPU.

    Raises:
        InputError: as `probe` does.
    """
    found = probe(job)
    _refuse_push(job)
    if not job.spec.get("resources", {}).get("gpus"):
        return {**found, "facts": {}}
    pool = ThreadPoolExecutor(1, thread_name_prefix="look")
    shape = pool.submit(sampling.model, job)
    try:
        return {**found, "facts": {"model": shape.result(timeout=SHAPE_SECONDS).facts()}}
    except (InputError, TimeoutError):
        return {**found, "facts": {}}  # whether the job can be had was answered; this would only have been more
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
            storage = open_storage(f"{prefix}/", access)
            names = [name for name in storage.names() if "/" not in name]
        except (OSError, UnsupportedURIError) as error:
            raise blamed(error, access, missing=MODEL_NOT_FOUND) from error
        if not names:
            raise InputError(MODEL_NOT_FOUND, f"{field}: there is nothing below {prefix}/")
        choice.model_files(f"{prefix}/", names, field=field)
        refuse_export(job, lambda name: b"".join(storage.read(name)))
        return {"outcome": "PASSED", "commit": ""}
    if wanted.provider == "huggingface":
        hub = job.hub()
        snapshot = models.look(hub, wanted)
        refuse_export(job, lambda name: models.read_small(hub, snapshot, name))
        return {"outcome": "PASSED", "commit": snapshot.commit}
    refuse_export(job, lambda name: (Path(wanted.name) / name).read_bytes())
    return {"outcome": "SKIPPED", "commit": ""}


def _refuse_push(job: FetchJob) -> None:
    """A push that the job's token may not make. A hub that does not tell is passed over.

    Raises:
        InputError: so it is.
    """
    if not job.spec.get("export", {}).get("push_to_hub"):
        return
    try:
        push.check(job)
    except InputError as error:
        if error.lasting:
            raise


def refuse_export(job: FetchJob, read: Callable[[str], bytes]) -> None:
    """What is asked for beside the adapter, and this model's architecture or tokenizer does not allow.

    Raises:
        InputError: so it is. A file that cannot be read is for the fetch, or the trainer, to tell.
    """
    if not job.spec.get("export", {}).get("gguf"):
        return
    for name, judge in (
        (choice.CONFIG, gguf_support.model_problem),
        ("tokenizer.json", gguf_support.tokenizer_problem),
    ):
        try:
            found = json.loads(read(name))
        except (OSError, ValueError, StopIteration):
            continue
        if isinstance(found, dict) and (problem := judge(found)):
            raise InputError(CONFIG_INVALID, f"export.gguf: {problem}; leave it out, and use export.merged")
