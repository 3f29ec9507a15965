"""What a request would come to: judged as a submit judges it, told at once where it cannot run, and nothing stored."""

from __future__ import annotations

import json

import pytest
from nacl.public import PrivateKey, SealedBox

from controlplane.domain import news as n
from controlplane.domain.errors import InvalidSpec
from controlplane.domain.job import State
from controlplane.domain.metrics import Measured
from controlplane.engine.ports import JobFilter
from controlplane.engine.preparing import Asked
from controlplane.engine.probing import Finding, Probed
from controlplane.engine.requests import AttemptReports, Output, Report, ReportBatch
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, spec, world
from trainplane.backends.estimate import FIGURES


async def look(here, made):
    return await here.preflights.look(json.dumps(made).encode(), project="default")


async def jobs(here):
    return [view.record.job.job_id for view in await here.jobs.page(JobFilter("default"), limit=10)]


async def test_every_violation_of_a_submit_is_told_and_nothing_else_is_looked_at(tmp_path):
    async with world(tmp_path) as here:
        bad = spec("j", customization={"method": "lora", "rank": 0}, nonsense=1)
        with pytest.raises(InvalidSpec) as refused:
            await here.submissions.submit(Asked(bad, "default"))
        found = await look(here, bad)
        assert (found.valid, found.feasible, found.judged) == (False, False, False)
        assert found.violations == refused.value.violations
        assert await jobs(here) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a": 1, "a": 2}', b"\xff"])
async def test_a_body_that_cannot_be_read_is_refused(tmp_path, body):
    async with world(tmp_path) as here:
        with pytest.raises(InvalidSpec):
            await here.preflights.look(body, project="default")


async def test_what_no_known_node_could_ever_run_is_said_in_words(tmp_path):
    async with world(tmp_path) as here:
        asked = spec("j", resources={"gpus": 4, "gpu_type": "A100"})
        assert (await look(here, asked)).infeasible_reason == "needs 4 x A100; no node has joined"
        await Agent(here, gpus=2).sync()
        found = await look(here, asked)
        assert (found.valid, found.feasible) == (True, False)
        assert found.infeasible_reason == "needs 4 x A100; no node has A100"
        four = await look(here, spec("j", resources={"gpus": 4}))
        assert four.infeasible_reason == (
            "needs 4 x GPU; the largest node has 2, and no nodes with equal shares, each with 1 CPUs and 1 GiB, "
            "hold it together"
        )
        await Agent(here, "gpu-02", gpus=2).sync()
        both = await look(here, spec("j", resources={"gpus": 4}))
        assert (both.feasible, both.infeasible_reason, both.pending_reason) == (True, "", "")
        assert (await look(here, spec("j", resources={"gpus": 2}))).feasible
        assert await jobs(here) == []


async def test_what_would_have_to_wait_says_for_what(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=2)
        await agent.sync()
        await here.placed("first", agent, resources={"gpus": 2})
        found = await look(here, spec("second", resources={"gpus": 1}))
        assert found.feasible
        assert found.pending_reason == "needs 1 x GPU; the node that has GPUs has 0 free"


async def test_a_name_or_an_output_that_a_job_holds_is_a_violation_and_a_repeat_is_none(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j")
        assert (await look(here, spec("j"))).valid
        other = await look(here, spec("j", priority=7))
        (violation,) = other.violations
        assert (violation.field, violation.reason) == ("job_id", "JOB_EXISTS")
        assert "priority" in violation.description
        within = await look(here, spec("k", artifacts={"output_uri": "file:///out/j/deeper/"}))
        (violation,) = within.violations
        assert (violation.field, violation.reason) == ("artifacts.output_uri", "OUTPUT_IN_USE")
        assert (await here.job("j")).state is State.QUEUED
        assert await jobs(here) == ["j"]


async def test_a_secret_that_differs_makes_another_request_and_is_not_repeated(tmp_path):
    async with world(tmp_path) as here:
        model = {"provider": "local", "model_name": "/models/tiny", "auth_token": "hf_one"}
        await here.submit("j", base_model=model)
        (violation,) = (await look(here, spec("j", base_model=model | {"auth_token": "hf_two"}))).violations
        assert "base_model.auth_token" in violation.description
        assert "hf_" not in str(violation)
        assert (await look(here, spec("j", base_model=model))).valid


HUB = {
    "backend": "peft",
    "base_model": {"provider": "huggingface", "model_name": "owner/name", "auth_token": "hf_secret"},
    "datasets": [{"source": "file:///data/rows.jsonl"}],
    "artifacts": {"output_uri": "file:///out/", "status_stream_url": "https://stream.example.com/"},
    "callbacks": {"webhook_url": "https://hooks.example.com/", "auth_header": "Bearer not-the-nodes-business"},
}
FACTS = {
    "model": {
        "config": {
            "model_type": "llama",
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": 100,
            "tie_word_embeddings": True,
        },
        "tensors": [
            ["model.embed_tokens.weight", [100, 64], 1],
            ["model.layers.*.self_attn.q_proj.weight", [64, 64], 2],
            ["model.layers.*.mlp.up_proj.weight", [256, 64], 2],
            ["model.layers.*.input_layernorm.weight", [64], 2],
        ],
        "bytes": 1_000_000,
        "here": False,
    },
    "datasets": [{"bytes": 5000, "rows": 100, "tokens": 20, "longest": 40, "share": 0.5}],
}
NAMES = ("model", "datasets[0]", "output")


def found_by(*findings, facts=FACTS):
    told = {finding.check: finding for finding in (*(Finding(name, "PASSED") for name in NAMES), *findings)}
    return Probed(
        "PASSED", findings=tuple(told.values()), facts=json.dumps(facts) if isinstance(facts, dict) else facts
    )


@in_virtual_time
async def test_a_node_looks_and_endpoints_are_reached_at_once_and_the_checks_say_who_looked(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        here.probes.answers["gpu-01"] = found_by(Finding("output", "FAILED", "STORAGE_DENIED", "artifacts.output_uri"))
        here.outbound.always["https://hooks.example.com/"] = 503
        began = here.clock.monotonic()
        found = await look(here, spec("j", **HUB))
        assert here.clock.monotonic() - began == pytest.approx(here.probes.seconds)
        assert [(c.name, c.status.value, c.reason, c.node) for c in found.checks] == [
            ("model", "PASSED", "", "gpu-01"),
            ("datasets[0]", "PASSED", "", "gpu-01"),
            ("output", "FAILED", "STORAGE_DENIED", "gpu-01"),
            ("webhook", "FAILED", "ENDPOINT_UNREACHABLE", ""),
            ("status_stream", "PASSED", "", ""),
        ]
        assert here.outbound.reached == ["https://hooks.example.com/", "https://stream.example.com/"]
        assert here.outbound.posts == []
        assert found.estimate.trainable_parameters == 16 * 2 * ((64 + 64) + (64 + 256))
        assert found.estimate.steps == 100 // 8 + 1
        assert found.estimate.tokens == 100 * 20
        assert await jobs(here) == []


@in_virtual_time
async def test_a_job_that_pushes_has_the_nodes_word_on_its_token_and_of_an_older_agent_none(tmp_path):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        pushing = spec("j", **HUB, export={"push_to_hub": "someone/result"})
        for finding in (Finding("push", "FAILED", "HUB_UNAUTHORIZED", "export.push_to_hub: no"), None):
            here.probes.answers["gpu-01"] = found_by(*((finding,) if finding else ()))
            (push,) = [each for each in (await look(here, pushing)).checks if each.name == "push"]
            assert (push.status.value, push.reason) == (("FAILED", finding.reason) if finding else ("SKIPPED", ""))


@in_virtual_time
async def test_what_a_node_is_told_is_sealed_to_it_and_holds_no_secret_that_is_not_its_business(tmp_path):
    async with world(tmp_path) as here:
        agent, key = Agent(here), PrivateKey.generate()
        agent.public_key = bytes(key.public_key)
        await agent.sync()
        here.probes.answers["gpu-01"] = found_by()
        found = await look(here, spec("j", **HUB))
        ((node, sealed),) = here.probes.asked
        assert (node, b"hf_secret" in sealed) == ("gpu-01", False)
        told = json.loads(json.loads(SealedBox(key).decrypt(sealed))["job"])
        assert told["secrets"] == {"base_model.auth_token": "hf_secret"}
        assert told["preflight"] is True
        assert "Bearer" not in json.dumps(told)
        assert "hf_secret" not in repr(found)


@in_virtual_time
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "node gpu-01 did not answer in time"),
        (Probed("SKIPPED", "", "the question cannot be read"), "the question cannot be read"),
    ],
    ids=["none", "an older agent"],
)
async def test_a_node_that_does_not_look_leaves_its_checks_skipped_and_the_estimate_unknown(tmp_path, answer, why):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        if answer:
            here.probes.answers["gpu-01"] = answer
        found = await look(here, spec("j", **HUB))
        assert [(c.name, c.status.value, c.message) for c in found.checks[:3]] == [
            (name, "SKIPPED", why) for name in NAMES
        ]
        assert (found.valid, found.feasible) == (True, True)
        assert found.estimate.parameters is found.estimate.gpu_memory_bytes is found.estimate.tokens is None
        assert set(found.estimate.unknown) == set(FIGURES)


async def test_without_a_node_nothing_is_made_up(tmp_path):
    async with world(tmp_path) as here:
        found = await look(here, spec("j", **HUB))
        assert {check.status.value for check in found.checks[:3]} == {"SKIPPED"}
        assert "no node is ready to look" in found.checks[0].message
        assert found.infeasible_reason.endswith("no node has joined")


@in_virtual_time
async def test_a_job_whose_memory_fits_no_device_is_infeasible_in_words(tmp_path):
    large = json.loads(json.dumps(FACTS))
    large["model"]["config"]["num_hidden_layers"] = 100
    for tensor in large["model"]["tensors"][1:]:
        tensor[1] = [size * 200 for size in tensor[1]]
        tensor[2] = 100
    large["model"]["config"]["hidden_size"] = 64 * 200
    async with world(tmp_path) as here:
        await Agent(here, gpus=2).sync()
        here.probes.answers["gpu-01"] = found_by(facts=large)
        found = await look(here, spec("j", **HUB, resources={"gpus": 1}))
        assert not found.feasible
        assert found.infeasible_reason.startswith("needs about ")
        assert "; the largest GPU has 24.0 GiB: lower tuning_parameters.batch_size" in found.infeasible_reason
        here.probes.answers["gpu-01"] = found_by()
        assert (await look(here, spec("j", **HUB, resources={"gpus": 1}))).feasible


@in_virtual_time
@pytest.mark.parametrize(
    "facts",
    [
        "",
        "[]",
        "{",
        '{"model": 1, "datasets": 2}',
        json.dumps({"model": FACTS["model"] | {"tensors": [["a.*.b.weight", [0, 1], 1]]}}),
        json.dumps({"model": FACTS["model"] | {"config": {"hidden_size": "x"}}, "datasets": [{"rows": 1}]}),
        json.dumps({"model": FACTS["model"] | {"tensors": [["x", [3], 1]]}, "datasets": []}),
        json.dumps(FACTS | {"datasets": [FACTS["datasets"][0] | {"rows": -1}]}),
        json.dumps(FACTS | {"datasets": FACTS["datasets"] * 3}),
    ],
)
async def test_whatever_a_node_says_of_the_inputs_is_known_or_unknown_and_nothing_breaks(tmp_path, facts):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        here.probes.answers["gpu-01"] = found_by(facts=facts)
        found = await look(here, spec("j", **HUB))
        estimate = found.estimate
        assert all(getattr(estimate, name) is not None or estimate.unknown[name] for name in FIGURES)
        assert estimate.gpu_memory_bytes is None


async def trained(here, agent, job_id, speeds, **blocks):
    """A job that measured these speeds, step by step, and succeeded."""
    ref = await here.placed(job_id, agent, **blocks)
    series = {"tokens_per_second": speeds, "loss": [1.0] * len(speeds)}
    rows = [Report(0, None, None, Measured(range(1, len(speeds) + 1), series))]
    await here.intake.report(ReportBatch(agent.node, agent.incarnation, [AttemptReports(ref, 1, rows)]))
    await agent.report(ref, 2, n.Started(1), n.Finished(1))
    await agent.commit(ref)
    await agent.report(ref, 4, n.Published(1), output=Output("file:///out/", "d1", ()))
    assert (await here.job(job_id)).state is State.SUCCEEDED


async def seconds(here, **changes):
    return (await look(here, spec("asked", **(LIKE | changes)))).estimate.seconds


LIKE = HUB | {"base_model": {"provider": "local", "model_name": "/models/small"}}


@in_virtual_time
async def test_time_comes_from_jobs_alike_that_have_finished_and_from_no_others(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=1)
        await agent.sync()
        here.probes.answers["gpu-01"] = found_by()
        assert await seconds(here) is None
        own = LIKE | {"callbacks": {}, "artifacts": {"output_uri": "file:///out/one/"}}
        await trained(here, agent, "one", [5.0, 10.0, 200.0, 100.0, 200.0, 100.0], **own)
        assert await seconds(here) == pytest.approx(2000 / (4 / (2 / 100 + 2 / 200)))
        for other in (
            {"customization": {"method": "dora"}},
            {"customization": {"method": "lora", "precision": "fp32"}},
            {"base_model": {"provider": "local", "model_name": "/models/other"}},
            {"resources": {"gpus": 1}},
            {"tuning_parameters": {"gradient_checkpointing": True}},
        ):
            assert await seconds(here, **other) is None, other
        assert await seconds(here, customization={"method": "lora", "rank": 4}) is not None


@in_virtual_time
@pytest.mark.parametrize(("free", "status"), [(10**9, "PASSED"), (10**5, "FAILED"), (0, "FAILED")])
async def test_a_node_without_room_for_what_a_job_brings_is_told(tmp_path, free, status):
    async with world(tmp_path) as here:
        await Agent(here).sync()
        here.probes.answers["gpu-01"] = found_by(facts=FACTS | {"disk_free_bytes": free})
        check = (await look(here, spec("j", **HUB))).checks[-1]
        assert (check.name, check.status.value, check.node) == ("disk", status, "gpu-01")
        assert (check.reason == "DISK_FULL") == (status == "FAILED")
