from __future__ import annotations

import os

import pytest

from agent.inputs.settings import InputSettings
from tests.support.aws import running_aws, store
from tests.support.hub import HubMirror

#: More than one piece of the client library's (10 MB), so that a cut leaves something to go on with.
LARGE_BYTES = 25_000_000
LOCAL = {"provider": "local", "model_name": "/models/tiny"}


@pytest.fixture
def mirror():
    with HubMirror().running() as running:
        yield running


@pytest.fixture
def directory(tmp_path):
    """A directory that looks like a model; what is in its files does not matter here."""
    model = tmp_path / "model"
    (model / "original").mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(os.urandom(300_000))
    (model / "pytorch_model.bin").write_bytes(b"pickled")
    (model / "original" / "consolidated.00.pth").write_bytes(b"pickled")
    (model / "modeling_evil.py").write_text("raise SystemExit")
    return model


@pytest.fixture
def settings(tmp_path, mirror):
    return InputSettings(cache_dir=str(tmp_path / "cache"), cache_bytes=1 << 40, hub_endpoint=mirror.url)


__all__ = ["running_aws", "store"]


@pytest.fixture
def job(tmp_path, settings, request):
    """Makes a fetch job of a spec; S3 is there where the test asked for `store`."""
    from agent.inputs.fetch import FetchJob
    from agent.storage.access import StorageSettings

    attempt = tmp_path / "attempts" / "JOB.1"
    attempt.mkdir(parents=True)
    has_store = "store" in request.fixturenames
    storage = request.getfixturevalue("store").settings() if has_store else StorageSettings()

    def made(spec, **changes):
        known = {
            "directory": attempt,
            "job_id": "unique-train-id",
            "project": "default",
            "spec": {"backend": "peft", "base_model": LOCAL, "datasets": [], **spec},
            "reads_inputs": True,
            "secrets": {},
            "settings": settings,
            "storage": storage,
        }
        return FetchJob(**{**known, **changes})

    return made


class Told:
    """A Teller that remembers."""

    def __init__(self):
        self.phases = []
        self.expected = []

    def phase(self, phase):
        self.phases.append(phase)

    def expects(self, directory, size_bytes):
        self.expected.append(size_bytes)

    def waiting(self):
        """Nobody else fetches here."""
