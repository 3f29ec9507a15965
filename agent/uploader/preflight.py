"""In a child: looks at all that a job would need, at once and for a few seconds each; nothing is left behind.

model ─ config.json, headers ─┐
datasets ─ a sample of each ──┤─► the trainer's own reader (a process of its own) ─► rows, tokens
output, log ─ an object, gone ┤
push ─ the hub asked who may ─┘
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from agent.inputs import choice, push, sampling
from agent.inputs.failures import InputError
from agent.inputs.probe import refuse_export
from agent.storage import UnsupportedURIError, check_writable, open_storage
from agent.storage.access import Access, session_name
from agent.uploader import publishing
from agent.uploader.failures import CONFIG_INVALID, UploadError, from_os_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from agent.inputs.fetch import FetchJob
    from agent.inputs.https import Beginning
    from agent.inputs.sampling import ModelSeen

PASSED, FAILED, SKIPPED = "PASSED", "FAILED", "SKIPPED"
LOOK_SECONDS = 5.5
"""For all looks together; the agent gives up after 10 s, and the child has to start and the rows to be read."""
_WRITE_SECONDS = 1.5
"""More for those that write: what they wrote must be removed again."""
_READ_SECONDS = 2.5
_SILENCE_SECONDS, _TRIES = 2.0, 2
_NOT_DONE = f"not done within {LOOK_SECONDS:g} s"


def preflight(job: FetchJob) -> dict[str, Any]:
    """`findings` and `facts`, as wire/v1/probe.proto and docs/backends.md have them; raises for nothing it finds."""
    # A store that does not answer is not waited for as for a job.
    job = replace(job, storage=replace(job.storage, silence_seconds=_SILENCE_SECONDS, request_tries=_TRIES))
    datasets = range(len(job.spec["datasets"]))
    looks: dict[str, Callable[[], Any]] = {
        "model": lambda: _model(job),
        **{f"datasets[{index}]": lambda index=index: sampling.dataset(job, index) for index in datasets},  # type: ignore[misc]
        "output": lambda: _output(job),
        "log": lambda: _log(job),
    }
    artifacts = job.spec["artifacts"]
    for name, field in (("output", "output_uri"), ("log", "log_uri")):
        if not artifacts.get(field):
            del looks[name]
    if job.spec.get("export", {}).get("push_to_hub"):
        looks["push"] = lambda: push.check(job)
    pool = ThreadPoolExecutor(min(len(looks), 16), thread_name_prefix="look")
    started = {name: pool.submit(look) for name, look in looks.items()}
    wait(started.values(), timeout=LOOK_SECONDS)
    wait([made for name, made in started.items() if name in {"output", "log"}], timeout=_WRITE_SECONDS)
    pool.shutdown(wait=False, cancel_futures=True)
    findings = {name: _finding(name, made) for name, made in started.items()}
    seen = {name: made.result() for name, made in started.items() if findings[name]["outcome"] == PASSED}
    facts: dict[str, Any] = {
        "datasets": [None] * len(datasets),
        "disk_free_bytes": shutil.disk_usage(job.directory).free,
    }
    if model := seen.get("model"):
        facts["model"] = model.facts()
    samples = {index: seen[name] for index in datasets if (name := f"datasets[{index}]") in seen}
    for index, read in _rows(job, samples, model.tokenizer if model else b"").items():
        findings[f"datasets[{index}]"] |= {key: read[key] for key in ("outcome", "reason", "message")}
        facts["datasets"][index] = read.get("facts")
    return {"findings": list(findings.values()), "facts": facts}


def _finding(name: str, made: Future[Any]) -> dict[str, str]:
    found = {"check": name, "outcome": SKIPPED, "reason": "", "message": _NOT_DONE}
    if not made.done() or made.cancelled():
        return found
    error = made.exception()
    if error is None:
        return found | {"outcome": PASSED, "message": ""}
    if isinstance(error, (InputError, UploadError)):
        return found | {
            "outcome": FAILED if error.lasting or name in {"output", "log"} else SKIPPED,
            "reason": error.reason,
            "message": str(error),
        }
    if isinstance(error, UnsupportedURIError):
        return found | {"outcome": FAILED, "reason": CONFIG_INVALID, "message": str(error)}
    raise error


def _model(job: FetchJob) -> ModelSeen:
    """The model, if what is asked for beside the adapter can be made of it.

    Raises:
        InputError: as of `sampling.model` and `refuse_export`.
    """
    seen = sampling.model(job)
    refuse_export(job, lambda name: seen.configuration if name == choice.CONFIG else seen.tokenizer)
    return seen


def _access(job: FetchJob, field: str) -> Access:
    role = (job.spec["artifacts"].get("auth") or {}).get("role_arn")
    return Access(session_name(job.job_id), role, field, job.storage)


def _output(job: FetchJob) -> None:
    artifacts = job.spec["artifacts"]
    uri = artifacts["output_uri"]
    with _without_new_directories(uri):
        storage = open_storage(uri, _access(job, "artifacts.output_uri"))
        overwrite = bool(artifacts.get("overwrite"))
        publishing.look(publishing.Output(storage, uri, "", job.job_id, 0, overwrite=overwrite))


def _log(job: FetchJob) -> None:
    uri = job.spec["artifacts"]["log_uri"]
    with _without_new_directories(uri):
        try:
            check_writable(open_storage(uri, _access(job, "artifacts.log_uri")))
        except OSError as error:
            raise from_os_error(error, what="writing below artifacts.log_uri") from error


@contextlib.contextmanager
def _without_new_directories(uri: str) -> Iterator[None]:
    """Removes the directories that a look had to make, as far as nobody else has put anything into them."""
    path = Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else None
    made = [each for each in (path, *path.parents) if not each.exists()] if path else []
    try:
        yield
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


def _rows(job: FetchJob, samples: dict[int, Beginning], tokenizer: bytes) -> dict[int, dict[str, Any]]:
    """What the trainer's own reader makes of the samples, by the datasets' numbers."""
    if not samples:
        return {}
    with TemporaryDirectory(prefix="sample-", dir=job.directory) as folder:
        asked: dict[str, Any] = {"datasets": [], "tokenizer": ""}
        if tokenizer:
            (Path(folder) / "tokenizer.json").write_bytes(tokenizer)
            asked["tokenizer"] = str(Path(folder) / "tokenizer.json")
        for index, sample in samples.items():
            path = Path(folder) / f"{index}-{sample.name[-80:]}"
            path.write_bytes(sample.data)
            asked["datasets"].append({"index": index, "path": str(path), "size_bytes": sample.size_bytes})
        asked["spec"] = {"datasets": job.spec["datasets"]}
        try:
            ran = subprocess.run(
                (sys.executable, "-P", "-m", "agent.trainer.sample"),
                input=json.dumps(asked).encode(),
                capture_output=True,
                timeout=_READ_SECONDS,
                check=True,
            )
            return {int(index): found for index, found in json.loads(ran.stdout).items()}
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            skipped = {"outcome": PASSED, "reason": "", "message": f"its rows were not read: {type(error).__name__}"}
            return dict.fromkeys(samples, skipped)
