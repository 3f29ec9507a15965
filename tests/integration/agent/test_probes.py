"""A real agent that is asked whether a model can be had: what it answers, and that it forgets the question."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from nacl.public import PublicKey, SealedBox

from agent.probes import WORKERS
from tests.integration.agent.conftest import NODE, Agent, until
from tests.support.hub import Account, HubMirror
from tests.support.tiny_models import write_tiny_model
from trainplane.wire import subjects
from trainplane.wire.v1 import probe_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.fake_control_plane import FakeControlPlane

NAME, TOKEN = "owner/name", "hf_right-for-this-model"
OUTCOMES = probe_pb2.ProbeReply.Outcome


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[HubMirror]:
    for folder, file in (("model", "model.safetensors"), ("pickled", "consolidated.00.pth")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(b"weights")
        (tmp_path / folder / "config.json").write_text("{}")
    with HubMirror().running() as running:
        running.serve(NAME, tmp_path / "model", token=TOKEN)
        running.serve("owner/pickled", tmp_path / "pickled", token=TOKEN)
        yield running


async def asked(
    control_plane: FakeControlPlane, *, token: str = TOKEN, resources: dict[str, int] | None = None, **model: Any
) -> probe_pb2.ProbeReply:
    """Asks the agent as the control plane does, with the key of its last sync."""
    await until(lambda: control_plane.syncs)
    base_model = {"provider": "huggingface", "model_name": NAME, "revision": "main", **model}
    job = {
        "job_id": "j",
        "project": "default",
        "spec": {"backend": "peft", "base_model": base_model, "resources": resources or {}},
        "secrets": {"base_model.auth_token": token},
    }
    box = SealedBox(PublicKey(control_plane.syncs[-1].public_key))
    sealed = box.encrypt(json.dumps({"job": json.dumps(job)}).encode())
    return await sent(control_plane, sealed)


async def sent(control_plane: FakeControlPlane, sealed: bytes, *, token: str = "a-token") -> probe_pb2.ProbeReply:
    answers: list[bytes] = []

    async def hear(message: Any) -> None:
        answers.append(message.data)

    reply = subjects.answer(NODE, token)
    heard = await control_plane.client.subscribe(reply, cb=hear)
    request = probe_pb2.ProbeRequest(sealed=sealed).SerializeToString()
    await control_plane.client.publish(subjects.probe(NODE), request, reply=reply)
    await until(lambda: answers)
    await heard.unsubscribe()
    return probe_pb2.ProbeReply.FromString(answers[0])


@pytest.mark.parametrize(
    ("token", "model", "reason", "field"),
    [
        ("hf_wrong", {}, "HUB_UNAUTHORIZED", "base_model.auth_token"),
        (TOKEN, {"revision": "v9"}, "MODEL_NOT_FOUND", "base_model.revision"),
        (TOKEN, {"model_name": "no/such"}, "MODEL_NOT_FOUND", "base_model.model_name"),
        (TOKEN, {"model_name": "owner/pickled"}, "MODEL_FORMAT_UNSUPPORTED", "base_model.model_name"),
    ],
)
async def test_what_would_fail_for_certain_is_said(
    control_plane: FakeControlPlane,
    agent: Agent,
    mirror: HubMirror,
    token: str,
    model: dict[str, str],
    reason: str,
    field: str,
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    reply = await asked(control_plane, token=token, **model)
    assert (reply.outcome, reply.reason) == (OUTCOMES.FAILED, reason)
    assert reply.message.startswith(f"{field}: ")


async def test_a_model_that_can_be_had_passes_and_nothing_of_it_is_downloaded_or_kept(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    reply = await asked(control_plane)
    assert reply.outcome == OUTCOMES.PASSED
    assert mirror.bodies() == 0
    files = [path for path in agent.data_dir.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in agent.log


async def test_of_a_model_for_a_gpu_the_shapes_are_told_and_a_broken_one_is_left_to_the_fetch(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror, tmp_path: Path
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    mirror.serve("owner/tiny", write_tiny_model(tmp_path / "tiny"), token=TOKEN)
    seen = json.loads((await asked(control_plane, resources={"gpus": 1}, model_name="owner/tiny")).facts)["model"]
    assert seen["config"]["model_type"] == "llama"
    assert sum(count for name, _, count in seen["tensors"] if name.endswith("q_proj.weight")) == 2
    assert (await asked(control_plane, model_name="owner/tiny")).facts == ""
    broken = await asked(control_plane, resources={"gpus": 1})
    assert (broken.outcome, broken.facts) == (OUTCOMES.PASSED, "")


async def test_a_hub_that_is_down_says_nothing_about_the_job(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    mirror.faults.statuses = [503] * 50
    reply = await asked(control_plane)
    assert reply.outcome == OUTCOMES.SKIPPED


async def test_a_question_that_has_waited_too_long_is_answered_without_a_look(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    mirror.faults.silent = True
    await until(lambda: control_plane.syncs)
    box = SealedBox(PublicKey(control_plane.syncs[-1].public_key))
    spec = {"backend": "peft", "base_model": {"provider": "huggingface", "model_name": NAME, "revision": "main"}}
    job = {"job_id": "j", "project": "default", "spec": spec, "secrets": {}}
    sealed = box.encrypt(json.dumps({"job": json.dumps(job)}).encode())
    many = [sent(control_plane, sealed, token=f"token-{number}") for number in range(WORKERS + 1)]
    answers = await asyncio.gather(*many)
    assert [each.outcome for each in answers] == [OUTCOMES.SKIPPED] * (WORKERS + 1)
    assert sorted(each.message.partition(" ")[0] for each in answers) == ["no"] * WORKERS + ["too"]


async def test_a_question_that_cannot_be_read_is_passed_over(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    await until(lambda: control_plane.syncs)
    assert (await sent(control_plane, b"sealed to somebody else")).outcome == OUTCOMES.SKIPPED
    assert (await asked(control_plane)).outcome == OUTCOMES.PASSED


def of_this_node(tmp_path: Path, output: str, **changes: Any) -> dict[str, Any]:
    """The question whether a job would find all that it needs on this node."""
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n' * 7)
    spec = {
        "backend": "peft",
        "base_model": {"provider": "local", "model_name": str(tmp_path / "model")},
        "datasets": [{"source": (tmp_path / "rows.jsonl").as_uri(), "split": "train", "format": "jsonl"}],
        "artifacts": {"output_uri": output, "log_uri": f"file://{tmp_path}/logs/deep/er/"},
        **changes,
    }
    return {"job_id": "j", "project": "default", "spec": spec, "secrets": {}, "preflight": True}


async def looked(control_plane: FakeControlPlane, question: dict[str, Any]) -> dict[str, tuple[int, str, str]]:
    await until(lambda: control_plane.syncs)
    box = SealedBox(PublicKey(control_plane.syncs[-1].public_key))
    reply = await sent(control_plane, box.encrypt(json.dumps({"job": json.dumps(question)}).encode()))
    assert reply.outcome == OUTCOMES.PASSED
    return {each.check: (each.outcome, each.reason, each.message) for each in reply.findings}


@pytest.fixture
def safe_model(tmp_path: Path) -> None:
    header = json.dumps({"model.layers.0.w.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(16)
    (tmp_path / "model" / "model.safetensors").write_bytes(content)


@pytest.mark.usefixtures("safe_model")
async def test_a_preflight_looks_at_all_that_a_job_needs_and_leaves_nothing(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(agent.data_dir)}
    found = await looked(control_plane, of_this_node(tmp_path, f"file://{tmp_path}/out/a/"))
    passed = (OUTCOMES.PASSED, "", "")
    assert found == dict.fromkeys(("model", "datasets[0]", "output", "log"), passed)
    new = {path for path in tmp_path.rglob("*") if not path.is_relative_to(agent.data_dir)} - before
    assert new <= {tmp_path / "model" / "tokenizer.json", tmp_path / "rows.jsonl"}
    assert [path for path in (agent.data_dir / "probes").iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("safe_model")
async def test_each_thing_that_is_wrong_is_told_of_its_own_check(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    (tmp_path / "file").write_text("")
    asked = of_this_node(tmp_path, f"file://{tmp_path}/file/out/")
    (tmp_path / "rows.jsonl").write_text('{"text": 1}\n')
    found = await looked(control_plane, asked)
    assert {name: each[0] for name, each in found.items()} == {
        "model": OUTCOMES.PASSED,
        "datasets[0]": OUTCOMES.FAILED,
        "output": OUTCOMES.FAILED,
        "log": OUTCOMES.PASSED,
    }
    assert found["datasets[0]"][1] == "DATASET_INVALID"
    assert "row 1 of" in found["datasets[0]"][2]
    assert found["output"][1] == "STORAGE_DENIED"
    assert found["output"][2].startswith(f"artifacts.output_uri: writing below file://{tmp_path}/file/out/: ")
    assert found["output"][2].endswith(": let the agent's user write there, or name another place")


@pytest.mark.usefixtures("safe_model")
async def test_exports_that_the_model_or_the_token_do_not_allow_are_told(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    export = {"gguf": True, "push_to_hub": "someone/result"}
    asked = of_this_node(tmp_path, f"file://{tmp_path}/out/", export=export)
    with HubMirror().running() as hub:
        hub.accounts[TOKEN] = Account("someone", role="read")
        agent.start("--hub-endpoint", hub.url)
        found = await looked(control_plane, {**asked, "secrets": {"base_model.auth_token": TOKEN}})
    assert found["model"][:2] == (OUTCOMES.FAILED, "CONFIG_INVALID")
    assert found["model"][2].startswith("export.gguf: only Llama's architecture is written as GGUF")
    assert found["push"][:2] == (OUTCOMES.FAILED, "HUB_UNAUTHORIZED")
    assert found["push"][2].startswith("export.push_to_hub: the token in base_model.auth_token may not write to ")
    assert TOKEN not in found["push"][2]


@pytest.mark.usefixtures("safe_model")
async def test_a_model_outside_of_the_agent_s_roots_is_not_looked_at(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    agent.start("--model-root", str(tmp_path / "elsewhere"))
    found = await looked(control_plane, of_this_node(tmp_path, f"file://{tmp_path}/out/"))
    assert found["model"][:2] == (OUTCOMES.FAILED, "STORAGE_DENIED")
    assert "--model-root" in found["model"][2]


@pytest.mark.usefixtures("safe_model")
async def test_a_hub_that_is_silent_leaves_its_check_skipped_and_holds_up_no_other(
    control_plane: FakeControlPlane, agent: Agent, tmp_path: Path
) -> None:
    with HubMirror().running() as silent:
        silent.faults.silent = True
        agent.start("--hub-endpoint", silent.url)
        model = {"provider": "huggingface", "model_name": NAME, "revision": "main"}
        found = await looked(control_plane, of_this_node(tmp_path, f"file://{tmp_path}/out/", base_model=model))
    assert (found["model"][0], found["datasets[0]"][0], found["output"][0]) == (
        OUTCOMES.SKIPPED,
        OUTCOMES.PASSED,
        OUTCOMES.PASSED,
    )
    assert "not done within" in found["model"][2]
