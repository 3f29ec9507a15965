"""A job whose model is elsewhere is looked at on a node before a device is charged for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from nacl.public import PrivateKey, SealedBox

from controlplane.domain.job import State
from controlplane.domain.node import Gpu
from controlplane.engine.ports import StoreUnavailable
from controlplane.engine.prober import ANSWER_SECONDS
from controlplane.engine.probing import Probed
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, world

HUB = {
    "backend": "peft",
    "base_model": {"provider": "huggingface", "model_name": "owner/name", "auth_token": "hf_secret"},
    "callbacks": {"webhook_url": "https://hooks.example.com/", "auth_header": "Bearer not-the-nodes-business"},
}
LOOPS = ("dispatcher", "prober", "wakes")


async def pending(here, job_id: str) -> str:
    return (await here.jobs.get(job_id, project="default")).record.pending_reason


@in_virtual_time
async def test_a_model_that_cannot_be_had_fails_its_job_before_a_device_is_charged(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("FAILED", "MODEL_FORMAT_UNSUPPORTED", "base_model.model_name: pickled")
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(0.5)
            assert await pending(here, "j") == "checking the model on gpu-01"
            await asyncio.sleep(1)
        job = await here.job("j")
        assert (job.state, job.reason, job.attempt) == (State.FAILED, "MODEL_FORMAT_UNSUPPORTED", 0)
        assert job.message == "base_model.model_name: pickled"
        assert await here.types("j") == ["job.queued", "job.failed"]
        assert here.bus.wakes == []


@in_virtual_time
@pytest.mark.parametrize(
    "answer",
    [
        Probed("PASSED"),
        Probed("SKIPPED", "", "the hub is down"),
        Probed("FAILED", "HUB_UNAVAILABLE", "may mend itself"),
        Probed("FAILED", "SOMETHING_NEW", "of a later agent"),
    ],
)
async def test_whatever_is_no_certain_failure_is_placed(tmp_path, answer):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = answer
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(1.5)
        assert (await here.job("j")).state is State.STARTING
        assert len(here.probes.asked) == 1
        assert here.bus.wakes == ["gpu-01"]


def seen(blocks: int) -> str:
    """What a node tells of a model of that many blocks, each of 0.6 GiB in bf16."""
    model = {
        "config": {
            "model_type": "llama",
            "hidden_size": 8192,
            "num_hidden_layers": blocks,
            "num_attention_heads": 64,
            "vocab_size": 1000,
        },
        "tensors": [
            ["model.embed_tokens.weight", [1000, 8192], 1],
            ["model.layers.*.mlp.up_proj.weight", [40_000, 8192], blocks],
            ["lm_head.weight", [1000, 8192], 1],
        ],
        "bytes": 1e9,
        "here": False,
    }
    return json.dumps({"model": model})


@in_virtual_time
async def test_a_model_that_fits_no_known_device_says_so_at_once_and_waits_for_one_that_it_fits(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("PASSED", facts=seen(50))
        await Agent(here, gpus=1).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB, resources={"gpus": 1})
            await here.submit("small", **HUB | {"backend": "mock"}, resources={"gpus": 1})
            await asyncio.sleep(2)
            said = await pending(here, "j")
            assert said.startswith("needs at least 31.")
            assert "GiB of memory on each GPU" in said
            assert "; the largest GPU has 24.0 GiB: train with method qlora" in said
            assert (await here.job("small")).state is State.STARTING  # it holds back nobody
            assert (await here.jobs.get("j", project="default")).record.job.state is State.QUEUED
            other = Agent(here, "gpu-02", gpus=1)
            other.inventory = replace(other.inventory, gpus=(Gpu(0, "NVIDIA A100-SXM4-80GB", 80 << 30),))
            await other.sync()
            await asyncio.sleep(2)
            assert (await here.job("j")).state is State.STARTING
        assert here.bus.wakes[-1] == "gpu-02"
        assert len(here.probes.asked) == 1


@in_virtual_time
@pytest.mark.parametrize(
    ("facts", "changes"),
    [
        (seen(50), {"customization": {"method": "qlora"}}),
        (seen(30), {}),
        (seen(50), {"resources": {"gpus": 2}}),
        (seen(50), {"resources": {"gpus": 0}}),
        ("{}", {}),
        ("[1", {}),
    ],
    ids=["quantized", "smaller", "sharded over two", "without a GPU", "nothing seen", "nonsense"],
)
async def test_a_model_that_fits_or_is_not_known_is_placed(tmp_path, facts, changes):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("PASSED", facts=facts)
        await Agent(here, gpus=2).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **{**HUB, "resources": {"gpus": 1}, **changes})
            await asyncio.sleep(2)
        assert (await here.job("j")).state is State.STARTING


@in_virtual_time
async def test_a_node_that_does_not_answer_delays_a_job_by_seconds_only(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(ANSWER_SECONDS - 1)
            assert (await here.job("j")).state is State.QUEUED
            await asyncio.sleep(1.5)
        assert (await here.job("j")).state is State.STARTING


@in_virtual_time
@pytest.mark.parametrize("key", [b"", bytes(32)], ids=["none", "one that seals nothing"])
async def test_a_node_without_a_key_is_not_asked(tmp_path, key):
    async with world(tmp_path) as here:
        agent = Agent(here)
        agent.public_key = key
        await agent.sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(0.5)
        assert (await here.job("j")).state is State.STARTING
        assert here.probes.asked == []


@in_virtual_time
@pytest.mark.parametrize(
    "blocks",
    [
        {"backend": "peft"},
        {"backend": "mock", "base_model": {"provider": "huggingface", "model_name": "owner/name"}},
    ],
)
async def test_a_job_that_reads_nothing_from_elsewhere_is_placed_at_once(tmp_path, blocks):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **blocks)
            await asyncio.sleep(0.05)
            assert (await here.job("j")).state is State.STARTING
        assert here.probes.asked == []


@in_virtual_time
async def test_the_node_is_told_spec_and_the_models_token_and_nothing_else(tmp_path):
    async with world(tmp_path) as here:
        key = PrivateKey.generate()
        agent = Agent(here)
        agent.public_key = bytes(key.public_key)
        await agent.sync()
        here.probes.answers["gpu-01"] = Probed("PASSED")
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(1.5)
        ((node, sealed),) = here.probes.asked
        assert b"hf_secret" not in sealed
        asked = json.loads(json.loads(SealedBox(key).decrypt(sealed))["job"])
        assert (node, asked["job_id"], asked["project"]) == ("gpu-01", "j", "default")
        assert asked["secrets"] == {"base_model.auth_token": "hf_secret"}
        assert asked["spec"]["base_model"]["revision"] == "main"


@in_virtual_time
async def test_a_slow_look_holds_back_no_other_job(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here, cpus=1).sync()
        async with here.loops(*LOOPS):
            await here.submit("slow", **HUB, resources={"gpus": 0, "cpus": 1})
            await asyncio.sleep(0.1)
            await here.submit("local", resources={"gpus": 0, "cpus": 1})
            await asyncio.sleep(0.1)
            assert (await here.job("local")).state is State.STARTING
            await asyncio.sleep(ANSWER_SECONDS)
            assert "CPU" in await pending(here, "slow")
            assert len(here.probes.asked) == 1


@in_virtual_time
async def test_a_job_that_is_cancelled_while_it_is_looked_at_stays_cancelled(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("FAILED", "MODEL_NOT_FOUND", "no such model")
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(0.5)
            await here.jobs.cancel("j", project="default")
            await asyncio.sleep(1)
        assert (await here.job("j")).state is State.CANCELLED


@in_virtual_time
async def test_a_database_that_is_away_only_delays(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("FAILED", "MODEL_NOT_FOUND", "no such model")
        await Agent(here).sync()
        async with here.loops(*LOOPS):
            await here.submit("j", **HUB)
            await asyncio.sleep(0.5)
            here.store.fails = StoreUnavailable("away")
            await asyncio.sleep(1)
            here.store.fails = None
            assert (await here.job("j")).state is State.QUEUED
            await asyncio.sleep(60)
        assert (await here.job("j")).reason == "MODEL_NOT_FOUND"


@in_virtual_time
async def test_no_more_jobs_are_looked_at_than_could_be_placed(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("PASSED")
        one = {"gpus": 0, "cpus": 1}
        for number in range(20):
            await here.submit(f"j-{number}", **HUB, resources=one)
        await Agent(here, cpus=2).sync()
        async with here.loops(*LOOPS):
            await asyncio.sleep(0.5)
            assert len(here.probes.asked) == 2
            await asyncio.sleep(5)
            assert len(here.probes.asked) == 2
        states = [(await here.job(f"j-{number}")).state for number in range(20)]
        assert states == [State.STARTING] * 2 + [State.QUEUED] * 18


@in_virtual_time
async def test_who_waited_behind_a_job_that_failed_its_look_gets_the_place(tmp_path):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("FAILED", "MODEL_NOT_FOUND", "no such model")
        one = {"gpus": 0, "cpus": 1}
        await here.submit("bad", **HUB, resources=one)
        await here.submit("local", resources=one)
        await Agent(here, cpus=1).sync()
        async with here.loops(*LOOPS):
            await asyncio.sleep(2)
        assert (await here.job("bad")).state is State.FAILED
        assert (await here.job("local")).state is State.STARTING


@in_virtual_time
@pytest.mark.parametrize("export", [{"gguf": True}, {"push_to_hub": "someone/result"}, {"gguf": False}])
async def test_a_node_looks_for_a_local_model_where_its_architecture_or_the_token_matters(tmp_path, export):
    async with world(tmp_path) as here:
        here.probes.answers["gpu-01"] = Probed("FAILED", "CONFIG_INVALID", "export.gguf: no")
        await Agent(here).sync()
        local = {"provider": "local", "model_name": "/models/tiny", "auth_token": "hf_secret"}
        async with here.loops(*LOOPS):
            await here.submit("j", backend="peft", base_model=local, export=export)
            await asyncio.sleep(1.5)
        assert (await here.job("j")).state is (State.FAILED if any(export.values()) else State.STARTING)
