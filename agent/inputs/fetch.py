"""All that one attempt reads, before its trainer starts: its model and its datasets."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs import choice, models, stored_models
from agent.inputs.cache import Entry, ModelCache
from agent.inputs.datasets import fetch_datasets
from agent.inputs.https import Download
from agent.inputs.models import MODEL_NAME, Model, ModelWanted, Place
from agent.inputs.settings import InputSettings
from agent.run import ELSEWHERE
from agent.storage.access import Access, StorageSettings, session_name
from trainplane.addresses import OutboundRules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.inputs.hub import Hub
    from agent.inputs.telling import Teller

_FILE = "file://"
_WEIGHTS_URL = "base_model.weights_url"
FETCHING_MODEL = "FETCHING_MODEL"
PREPARING_DATA = "PREPARING_DATA"


@dataclass(frozen=True, slots=True)
class FetchJob:
    """What to fetch, for whom, with what; `secrets` by their paths in the spec."""

    directory: Path
    job_id: str
    project: str
    spec: Mapping[str, Any]
    reads_inputs: bool
    secrets: Mapping[str, str]
    settings: InputSettings
    storage: StorageSettings
    hub_token: str = ""
    """The agent's own, for jobs without one; empty: it has none."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> FetchJob:
        """Read the agent's job line."""
        return cls(
            directory=Path(document["directory"]),
            job_id=document["job_id"],
            project=document["project"],
            spec=document["spec"],
            reads_inputs=document["reads_inputs"],
            secrets=document["secrets"],
            settings=InputSettings.parse(document["settings"]),
            storage=StorageSettings(**document["storage"]),
            hub_token=document["hub_token"],
        )

    def hub(self) -> Hub:
        """The hub as the job sees it.

        Raises:
            InputError: the platform's token cannot be read.
        """
        return models.open_hub(self.settings, self.secrets, own_token=self.hub_token)

    def access(self, field: str) -> Access:
        """By whose leave a model is read: the agent's own."""
        return Access(session_name(self.job_id), None, field, self.storage)


def fetch(job: FetchJob, teller: Teller) -> dict[str, Any]:
    """Fetch all of it; `inputs` is the content of `inputs.json`, or None where everything was on this node already.

    Raises:
        InputError: something cannot be had, or written.
    """
    if not job.reads_inputs:
        return {"inputs": None, "commit": ""}
    model, datasets = job.spec["base_model"], job.spec["datasets"]
    local_model = model.get("provider") not in ELSEWHERE and not model.get("weights_url")
    if local_model and all(d["source"].startswith(_FILE) for d in datasets):
        return {"inputs": None, "commit": ""}
    inputs = job.directory / "inputs"
    inputs.mkdir(exist_ok=True)
    if local_model:
        found = Model(Path(model["model_name"]), model["model_name"], "")
    else:
        teller.phase(FETCHING_MODEL)
        found = _model(job, inputs, teller)
    if not all(d["source"].startswith(_FILE) for d in datasets):
        teller.phase(PREPARING_DATA)
    fetched = fetch_datasets(job, inputs, expects=teller.expects)
    document = {
        "model": {"path": str(found.path), "name": found.name, "commit": found.commit},
        "datasets": [
            {"path": str(dataset.path)} | ({"commit": dataset.commit} if dataset.commit else {}) for dataset in fetched
        ],
    }
    return {"inputs": document, "commit": found.commit}


def _model(job: FetchJob, inputs: Path, teller: Teller) -> Model:
    wanted = ModelWanted.of(job.spec)
    place = Place(job.project, job.directory, teller.expects, teller.waiting)
    if wanted.weights_url.startswith("s3://"):
        there = stored_models.look(wanted.weights_url, job.access(_WEIGHTS_URL))
        return Model(stored_models.fetch(there, job.settings, place), wanted.name, "")
    if wanted.provider == "s3":
        there = stored_models.look(wanted.name, job.access(MODEL_NAME))
        return Model(stored_models.fetch(there, job.settings, place), wanted.name, "")
    if wanted.provider == "local":
        found = Model(models.local_directory(wanted, job.settings), wanted.name, "")
    else:
        found = models.from_hub(job.hub(), wanted, job.settings, place)
    return _with_weights(job, wanted, found, inputs, place) if wanted.weights_url else found


def _with_weights(job: FetchJob, wanted: ModelWanted, beside: Model, inputs: Path, place: Place) -> Model:
    """Configuration and tokenizer from one place, the weights by https, in one directory.

    It is kept for other jobs where the server tells one content of the weights from another, by an ETag.
    """
    settings = job.settings
    download = Download(
        wanted.weights_url,
        _WEIGHTS_URL,
        limit_bytes=settings.cache_bytes,
        rules=OutboundRules.of(hosts=settings.allowed_hosts, networks=settings.allowed_networks),
        ca_bundle=settings.ca_bundle,
    )
    names = [path.name for path in beside.path.iterdir() if path.is_file()]
    small = choice.beside(wanted.name, names, field=MODEL_NAME)
    tag, size = download.look()
    if size > settings.cache_bytes:
        tag = ""  # refused below, in words

    def fill(directory: Path) -> None:
        for name in small:
            shutil.copyfile(beside.path / name, directory / name)
        if not (directory / choice.WEIGHTS).exists():
            replace(download, tag=tag).into(
                directory / choice.WEIGHTS, expects=lambda size: place.expects(directory, size)
            )

    if not tag:
        target = inputs / "model"
        target.mkdir(exist_ok=True)
        fill(target)
        return Model(target, beside.name, beside.commit)
    # Its query may hold a signature, and is in no name for that.
    url = sha256(wanted.weights_url.encode()).hexdigest()[:16]
    content = sha256(f"{tag} {size}".encode())
    for name in small:
        content.update(f" {name} {sha256((beside.path / name).read_bytes()).hexdigest()}".encode())
    entry = Entry(Path(settings.cache_dir), job.project, f"https--{url}", content.hexdigest()[:40])
    cache = ModelCache(Path(settings.cache_dir), limit_bytes=settings.cache_bytes)
    path = cache.obtain(entry, size, user=place.attempt, fill=fill, waiting=place.waiting)
    return Model(path, beside.name, beside.commit)
