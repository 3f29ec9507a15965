"""A real agent that is asked whether a model can be had: what it answers, and that it forgets the question."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from nacl.public import PublicKey, SealedBox

from tests.integration.agent.conftest import NODE, Agent, until
from tests.support.hub import HubMirror
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


async def asked(control_plane: FakeControlPlane, *, token: str = TOKEN, **model: Any) -> probe_pb2.ProbeReply:
    """Asks the agent as the control plane does, with the key of its last sync."""
    await until(lambda: control_plane.syncs)
    base_model = {"provider": "huggingface", "model_name": NAME, "revision": "main", **model}
    job = {
        "job_id": "j",
        "project": "default",
        "spec": {"backend": "peft", "base_model": base_model},
        "secrets": {"base_model.auth_token": token},
    }
    box = SealedBox(PublicKey(control_plane.syncs[-1].public_key))
    sealed = box.encrypt(json.dumps({"job": json.dumps(job)}).encode())
    return await sent(control_plane, sealed)


async def sent(control_plane: FakeControlPlane, sealed: bytes) -> probe_pb2.ProbeReply:
    answers: list[bytes] = []

    async def hear(message: Any) -> None:
        answers.append(message.data)

    reply = subjects.answer(NODE, "a-token")
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


async def test_a_hub_that_is_down_says_nothing_about_the_job(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    mirror.faults.statuses = [503] * 50
    reply = await asked(control_plane)
    assert reply.outcome == OUTCOMES.SKIPPED


async def test_a_question_that_cannot_be_read_is_passed_over(
    control_plane: FakeControlPlane, agent: Agent, mirror: HubMirror
) -> None:
    agent.start("--hub-endpoint", mirror.url)
    await until(lambda: control_plane.syncs)
    assert (await sent(control_plane, b"sealed to somebody else")).outcome == OUTCOMES.SKIPPED
    assert (await asked(control_plane)).outcome == OUTCOMES.PASSED
