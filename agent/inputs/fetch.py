"""All that one attempt reads, before its trainer starts: its model and its datasets."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.inputs import choice, models
from agent.inputs.datasets import blamed, bring, fetch_datasets
from agent.inputs.failures import MODEL_NOT_FOUND, InputError
from agent.inputs.https import Download
from agent.inputs.models import MODEL_NAME, Model, ModelWanted, Place
from agent.inputs.settings import InputSettings
from agent.run import ELSEWHERE
from agent.storage import UnsupportedURIError, open_storage
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
    if wanted.weights_url.startswith("s3://"):
        return _from_s3(job, wanted, wanted.weights_url, inputs, teller)
    if wanted.provider == "s3":
        return _from_s3(job, wanted, wanted.name, inputs, teller)
    place = Place(job.project, job.directory, teller.expects, teller.waiting)
    if wanted.provider == "local":
        found = Model(models.local_directory(wanted, job.settings), wanted.name, "")
    else:
        found = models.from_hub(job.hub(), wanted, job.settings, place)
    return _with_weights(job, wanted, found, inputs, teller) if wanted.weights_url else found


def _from_s3(job: FetchJob, wanted: ModelWanted, uri: str, inputs: Path, teller: Teller) -> Model:
    """A whole model directory of S3's. Not kept for other jobs: nothing there tells one content from a later one."""
    field = _WEIGHTS_URL if wanted.weights_url else MODEL_NAME
    access = job.access(field)
    target = inputs / "model"
    target.mkdir(exist_ok=True)
    prefix = uri.rstrip("/")
    try:
        storage = open_storage(f"{prefix}/", access)
        names = [name for name in storage.names() if "/" not in name]
        if not names:
            raise InputError(MODEL_NOT_FOUND, f"{field}: there is nothing below {prefix}/")
        chosen = choice.model_files(f"{prefix}/", names, field=field)
        sizes = {name: storage.size(name) for name in chosen}
        versions = {name: storage.version(name) for name in chosen}
    except (OSError, UnsupportedURIError) as error:
        raise blamed(error, access, missing=MODEL_NOT_FOUND) from error
    teller.expects(target, sum(sizes.values()))
    note = inputs / "model.versions.json"
    here = _noted(note)
    for name in chosen:
        path = target / name
        if not path.exists() or path.stat().st_size != sizes[name] or here.get(name) != versions[name]:
            bring(f"{prefix}/{name}", access, path, missing=MODEL_NOT_FOUND, expects=lambda _directory, _size: None)
            here[name] = versions[name]
            note.write_text(json.dumps(here), encoding="utf-8")
    return Model(target, wanted.name, "")


def _noted(note: Path) -> dict[str, Any]:
    """Which versions a former try has brought; what was torn by its end says nothing."""
    try:
        found = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _with_weights(job: FetchJob, wanted: ModelWanted, beside: Model, inputs: Path, teller: Teller) -> Model:
    """Configuration and tokenizer from one place, the weights by https, in one directory."""
    target = inputs / "model"
    target.mkdir(exist_ok=True)
    names = [path.name for path in beside.path.iterdir() if path.is_file()]
    for name in choice.beside(wanted.name, names, field=MODEL_NAME):
        shutil.copyfile(beside.path / name, target / name)
    weights = target / choice.WEIGHTS
    if not weights.exists():
        settings = job.settings
        download = Download(
            wanted.weights_url,
            _WEIGHTS_URL,
            limit_bytes=settings.cache_bytes,
            rules=OutboundRules.of(hosts=settings.allowed_hosts, networks=settings.allowed_networks),
            ca_bundle=settings.ca_bundle,
        )
        download.into(weights, expects=lambda size: teller.expects(target, size))
    return Model(target, beside.name, beside.commit)
