"""A real agent, and a model whose training no disk holds: refused before a trainer starts, in words with figures."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import pytest

from agent.launch import LaunchRefusedError
from agent.room import check
from agent.run import Assignment, AttemptKey, Gang
from tests.integration.agent.conftest import Agent, until
from tests.support.hub import HubMirror
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane

CONFIG = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 8}
#: 2^50 numbers: in bf16 two million GiB, by the header alone.
HUGE = {"model.layers.0.mlp.up_proj.weight": [2**25, 2**25]}


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    directory = tmp_path / "huge"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tensors = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in HUGE.items()}
    header = json.dumps(tensors).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return directory


def spec(tmp_path: Path, model: Path | str, **changes: Any) -> dict[str, Any]:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a row"}\n')
    local = {"provider": "local", "model_name": str(model)}
    return {
        "backend": "peft",
        "base_model": local,
        "customization": {"method": "full", "precision": "bf16"},
        "datasets": [{"source": rows.as_uri()}],
        "artifacts": {"output_uri": "s3://bucket/out/"},
        "resources": {"cpus": 1},
        "tuning_parameters": {"max_sequence_length": 8},
        **changes,
    }


def assigned(tmp_path: Path, model: Path, gang: Gang | None = None, **changes: Any) -> tuple[Assignment, Path]:
    directory = tmp_path / "attempt"
    directory.mkdir(exist_ok=True)
    return Assignment(
        AttemptKey("JOB", 1), "job", "default", spec(tmp_path, model, **changes), (), None, gang=gang
    ), directory


@pytest.mark.parametrize("source", ["local", "hub"])
async def test_a_training_that_the_disk_cannot_hold_is_refused_before_its_trainer_starts(
    control_plane: FakeControlPlane, agent: Agent, huge: Path, tmp_path: Path, source: str
) -> None:
    with HubMirror().running() as mirror:
        mirror.serve("owner/huge", huge)
        agent.start("--hub-endpoint", mirror.url)
        wanted = spec(tmp_path, huge, artifacts={"output_uri": (tmp_path / "out").as_uri()})
        if source == "hub":
            wanted["base_model"] = {"provider": "huggingface", "model_name": "owner/huge", "revision": "main"}
        job = await control_plane.assign(wanted)
        await until(lambda: job.last("failed"))
    assert job.last("failed").reason == "DISK_FULL"
    said = job.last("failed").message
    assert said.startswith("base_model: this training needs ")
    assert "(checkpoints 25165824.0 GiB, the output 2097152.0 GiB; its copies at its place 4194304.0 GiB)" in said
    assert "tuning_parameters.checkpoint_limit" in said
    assert "started" not in job.kinds()
    assert agent.events("trainer started") == []


def test_what_the_disk_holds_passes_and_a_model_that_is_not_understood_is_left_to_the_trainer(tmp_path: Path) -> None:
    check(*assigned(tmp_path, write_tiny_model(tmp_path / "tiny"), export={"merged": True, "gguf": True}))
    (tmp_path / "broken").mkdir()
    for content in (b"", b"{", b"[]"):
        (tmp_path / "broken" / "config.json").write_bytes(content)
        (tmp_path / "broken" / "model.safetensors").write_bytes(content)
        check(*assigned(tmp_path, tmp_path / "broken"))
    check(*assigned(tmp_path, tmp_path / "none"))


def test_only_who_writes_needs_room_and_an_engine_that_does_not_reckon_is_not_asked(tmp_path: Path, huge: Path) -> None:
    other = Gang(nodes=2, node=1, first_rank=1, address="127.0.0.1", port=1)
    check(*assigned(tmp_path, huge, gang=other))
    check(*assigned(tmp_path, huge, backend="mock"))
    check(*assigned(tmp_path, huge, backend="no-such"))
    with pytest.raises(LaunchRefusedError):
        check(*assigned(tmp_path, huge))


def test_an_adapter_of_a_model_that_is_larger_than_the_disk_needs_room_for_exports_alone(
    tmp_path: Path, huge: Path
) -> None:
    ia3 = {"method": "ia3", "precision": "bf16", "peft": {"config": {}}, "target_modules": ["up_proj"]}
    check(*assigned(tmp_path, huge, customization=ia3))
    with pytest.raises(LaunchRefusedError, match=r"merged 2097152\.0 GiB, merging 2097152\.0 GiB\), and ") as refused:
        check(*assigned(tmp_path, huge, customization=ia3, export={"merged": True}))
    assert refused.value.reason == "DISK_FULL"
