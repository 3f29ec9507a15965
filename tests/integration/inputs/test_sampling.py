"""Inputs' beginnings: what a model's small files tell, and samples of datasets, from wherever a spec may name."""

from __future__ import annotations

import json
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from agent.inputs import sampling
from agent.inputs.failures import InputError
from agent.inputs.fetch import fetch
from tests.integration.inputs.conftest import Told
from tests.support.authority import Authority

TOKEN = "hf_right"
TENSORS = {
    "model.embed_tokens.weight": [10, 4],
    **{f"model.layers.{block}.self_attn.q_proj.weight": [4, 4] for block in range(3)},
    "model.layers.0.odd.weight": [2],
}
PATTERNS = [
    ["model.embed_tokens.weight", [10, 4], 1],
    ["model.layers.*.self_attn.q_proj.weight", [4, 4], 3],
    ["model.layers.*.odd.weight", [2], 1],
]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 4,
    "tie_word_embeddings": False,
    "architectures": ["LlamaForCausalLM"],
    "long": "x" * 1000,
}


def safetensors(tensors, *, padding: int = 0) -> bytes:
    """A file of that header and 3 MB of nothing."""
    header = {"__metadata__": {"format": "pt", "note": "x" * padding}}
    header |= {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors.items()}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(3_000_000)


@pytest.fixture
def small(tmp_path):
    directory = tmp_path / "small"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    (directory / "model.safetensors").write_bytes(safetensors(TENSORS, padding=200_000))
    return directory


def by_hub(**model):
    return {"base_model": {"provider": "huggingface", "model_name": "owner/small", **model}}


def test_a_model_of_this_node_is_told_by_its_small_files(job, small):
    seen = sampling.model(job({"base_model": {"provider": "local", "model_name": str(small)}}))
    assert seen.facts() == {
        "config": {"model_type": "llama", "hidden_size": 4, "tie_word_embeddings": False},
        "tensors": PATTERNS,
        "bytes": sum(path.stat().st_size for path in small.iterdir()),
        "here": True,
    }
    assert seen.tokenizer == b'{"version": "1.0"}'


def test_a_model_of_the_hub_costs_some_ranges_and_its_token_goes_to_nobody_else(job, small, mirror, settings):
    mirror.serve("owner/small", small, token=TOKEN)
    wanted = job(by_hub(), secrets={"base_model.auth_token": TOKEN})
    seen = sampling.model(wanted)
    assert (seen.tensors, seen.here) == (PATTERNS, False)
    bodies = [each for each in mirror.asked_for("/linked/") if each.method == "GET"]
    assert [(each.range, each.authorized) for each in bodies] == [
        ("bytes=0-99999", False),
        (f"bytes=0-{8 + len(header_of(small)) - 1}", False),
    ]
    fetch(wanted, Told())
    before = len(mirror.asked)
    assert sampling.model(wanted).facts() == seen.facts() | {"here": True}
    assert [each.path for each in mirror.asked[before:] if "tokenizer" in each.path or "/linked/" in each.path] == []


def header_of(directory) -> bytes:
    data = (directory / "model.safetensors").read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]]


def test_a_model_in_s3_is_told_the_same(job, small, store):
    for path in small.iterdir():
        store.put(f"s3://bucket/small/{path.name}", path.read_bytes())
    seen = sampling.model(job({"base_model": {"provider": "s3", "model_name": "s3://bucket/small"}}))
    assert (seen.tensors, seen.here, seen.config["hidden_size"]) == (PATTERNS, False, 4)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"null"])
def test_weights_that_are_no_safetensors_are_refused_in_words(job, small, content):
    (small / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError) as refused:
        sampling.model(job({"base_model": {"provider": "local", "model_name": str(small)}}))
    assert refused.value.reason == "MODEL_FORMAT_UNSUPPORTED"
    assert "model.safetensors is no safetensors file" in str(refused.value)


def test_a_dataset_of_the_hub_is_sampled_from_its_first_file(job, mirror, tmp_path):
    (tmp_path / "rows").mkdir()
    for number in (1, 2):
        (tmp_path / "rows" / f"train-{number}.jsonl").write_bytes(b'{"text": "a"}\n' * 200_000)
    mirror.serve("datasets/owner/rows", tmp_path / "rows")
    found = sampling.dataset(job({"datasets": [{"source": "hf:owner/rows", "split": "train"}]}), 0)
    assert (len(found.data), found.size_bytes, found.name) == (sampling.SAMPLE_BYTES, 5_600_000, "train-1.jsonl")
    assert not found.whole


def test_a_dataset_of_this_node_is_sampled_and_one_that_is_not_there_refused(job, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n')
    source = (tmp_path / "rows.jsonl").as_uri()
    found = sampling.dataset(job({"datasets": [{"source": source}]}), 0)
    assert (found.data, found.whole) == (b'{"text": "a"}\n', True)
    with pytest.raises(InputError, match=r"datasets\[0\].source: there is no file"):
        sampling.dataset(job({"datasets": [{"source": source + "x"}]}), 0)


class _Page(BaseHTTPRequestHandler):
    """A file of 2 MB; knows ranges if its name says so."""

    def do_GET(self):
        ranged = "ranges" in self.path and "range" in self.headers
        end = int(self.headers["range"].rpartition("-")[2]) + 1 if ranged else 2_000_000
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("content-range", f"bytes 0-{end - 1}/2000000")
        self.send_header("content-length", str(end))
        self.end_headers()
        try:
            self.wfile.write(b"x" * end)
        except OSError:
            self.close_connection = True  # whoever asked has enough

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("name", ["ranges.jsonl", "whole.jsonl"])
def test_a_dataset_by_https_is_sampled_also_where_the_server_knows_no_ranges(job, settings, tmp_path, name):
    from dataclasses import replace

    authority = Authority(tmp_path / "ca")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        context = authority.server("localhost")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        allowed = replace(settings, ca_bundle=str(authority.bundle), allowed_hosts=("localhost",))
        source = f"https://localhost:{server.server_port}/{name}"
        found = sampling.dataset(job({"datasets": [{"source": source}]}, settings=allowed), 0)
        server.shutdown()
        thread.join()
    assert (len(found.data), found.size_bytes, found.name) == (sampling.SAMPLE_BYTES, 2_000_000, name)
