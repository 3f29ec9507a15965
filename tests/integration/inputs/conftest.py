from __future__ import annotations

import os

import pytest

from agent.inputs.settings import InputSettings
from tests.support.hub import HubMirror

#: More than one piece of the client library's (10 MB), so that a cut leaves something to go on with.
LARGE_BYTES = 25_000_000


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
