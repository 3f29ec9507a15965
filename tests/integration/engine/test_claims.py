"""An attempt goes to its node once, and one attempt publishes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from nacl.public import PrivateKey, SealedBox

from controlplane.domain import news as n
from controlplane.domain.job import State
from controlplane.domain.node import AttemptRef
from controlplane.vault import MasterVault
from tests.support.clock import in_virtual_time
from tests.support.world import Agent, world

SECRETS = {
    "base_model": {"provider": "local", "model_name": "/m/tiny", "auth_token": "hf_canary"},
    "callbacks": {"webhook_url": "https://hooks.example.com/x", "auth_header": "Bearer canary"},
}


async def assigned(here, agent, job_id="j", **blocks):
    made = await here.submit(job_id, **blocks)
    while await here.dispatcher.round():
        pass
    return AttemptRef(made.record.job.uid, 1)


async def running(here, agent, job_id="j"):
    ref = await here.placed(job_id, agent)
    await agent.report(ref, 1, n.Started(1))
    return ref


@in_virtual_time
async def test_the_same_nonce_gets_the_same_answer_and_another_none(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await assigned(here, agent)
        first = await agent.claim(ref, b"a" * 16)
        assert first.outcome == "GRANTED"
        assert await agent.claim(ref, b"a" * 16) == first
        other = await agent.claim(ref, b"b" * 16)
        assert (other.outcome, other.reason, other.assignment_json) == ("REFUSED", "CLAIMED_BY_ANOTHER", b"")
        assert (await Agent(here, "gpu-02").claim(ref, b"a" * 16)).reason == "UNKNOWN_ATTEMPT"
        assert (await agent.claim(AttemptRef(ref.job_uid, 2))).reason == "UNKNOWN_ATTEMPT"
        assert (await agent.claim(AttemptRef("01KNOBODY", 1))).reason == "UNKNOWN_ATTEMPT"


@in_virtual_time
@pytest.mark.parametrize(
    ("gpus", "simulated", "said"), [(0, True, ([], 1)), (2, True, ([], 2)), (2, False, (["0", "1"], 2))]
)
async def test_the_assignment_has_a_rank_for_each_device_also_of_a_stand_in(tmp_path, gpus, simulated, said):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=4)
        agent.inventory = replace(agent.inventory, simulated=simulated)
        await agent.sync()
        answer = await agent.claim(await assigned(here, agent, resources={"gpus": gpus}))
        assignment = json.loads(answer.assignment_json)
        assert (assignment["devices"], assignment["world_size"]) == said


@in_virtual_time
async def test_two_agents_that_claim_at_once_have_one_winner(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await assigned(here, agent)
        answers = await asyncio.gather(*(agent.claim(ref, bytes([i]) * 16) for i in range(8)))
        assert sorted(answer.outcome for answer in answers) == ["GRANTED"] + ["REFUSED"] * 7


@in_virtual_time
async def test_an_older_agent_of_the_same_name_claims_and_commits_nothing(tmp_path):
    async with world(tmp_path) as here:
        old, new = Agent(here), Agent(here)
        await old.sync()
        await new.sync()
        ref = await assigned(here, new)
        assert (await old.claim(ref, b"o" * 16)).outcome == "NOT_NOW"
        assert (await new.claim(ref, b"n" * 16)).outcome == "GRANTED"
        await new.report(ref, 1, n.Started(1))
        assert (await old.commit(ref)).outcome == "NOT_NOW"
        assert (await new.commit(ref)).outcome == "GRANTED"


@in_virtual_time
async def test_the_assignment_says_what_to_run_and_no_secret(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await assigned(here, agent, resources={"max_duration_minutes": 2}, **SECRETS)
        answer = await agent.claim(ref)
        assignment = json.loads(answer.assignment_json)
        assert (assignment["uid"], assignment["attempt"], assignment["deadline_seconds"]) == (ref.job_uid, 1, 120.0)
        assert assignment["spec"]["customization"]["rank"] == 16
        assert b"canary" not in answer.assignment_json
        assert "canary" not in repr(answer)


@in_virtual_time
async def test_secrets_are_sealed_to_the_key_that_was_given_without_the_delivery_s(tmp_path):
    async with world(tmp_path) as here:
        agent, key, other = Agent(here), PrivateKey.generate(), PrivateKey.generate()
        await agent.sync()
        ref = await assigned(here, agent, **SECRETS)
        answer = await agent.claim(ref, public_key=bytes(key.public_key))
        assert json.loads(SealedBox(key).decrypt(answer.sealed_secrets)) == {"base_model.auth_token": "hf_canary"}
        again = await agent.claim(ref, public_key=bytes(other.public_key))  # the same nonce: a restarted agent
        assert json.loads(SealedBox(other).decrypt(again.sealed_secrets)) == {"base_model.auth_token": "hf_canary"}


@in_virtual_time
async def test_a_job_without_secrets_has_none_to_hand_on(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await assigned(here, agent, callbacks=SECRETS["callbacks"])
        assert (await agent.claim(ref)).sealed_secrets == b""


@in_virtual_time
async def test_after_a_cancel_an_unclaimed_attempt_is_refused_and_its_devices_are_free(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here, gpus=1)
        await agent.sync()
        ref = await assigned(here, agent, resources={"gpus": 1})
        assert (await here.jobs.cancel("j", project="default")).record.job.state is State.CANCELLED
        answer = await agent.claim(ref)
        assert (answer.outcome, answer.reason) == ("REFUSED", "NOT_CURRENT")
        assert (await here.nodes.page())[0].holders == {}
        assert await here.types("j") == ["job.queued", "job.starting", "job.cancelling", "job.cancelled"]


@in_virtual_time
async def test_the_time_that_earlier_attempts_took_is_taken_off_the_deadline(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent, resources={"max_duration_minutes": 10})
        await asyncio.sleep(120)
        await agent.report(ref, 1, n.Started(1), n.Failed(1, "TRAINER_CRASHED", "boom"))
        await asyncio.sleep(60)  # waiting does not count
        while await here.dispatcher.round() or (await here.job("j")).state is not State.STARTING:
            pass
        answer = await agent.claim(AttemptRef(ref.job_uid, 2))
        assert json.loads(answer.assignment_json)["deadline_seconds"] == pytest.approx(480, abs=1)


# commit


@in_virtual_time
async def test_the_commit_is_granted_once_and_for_one_manifest(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await running(here, agent)
        answers = await asyncio.gather(*(agent.commit(ref, f"d{i}") for i in range(5)))
        assert [answer.outcome for answer in answers] == ["GRANTED"] + ["REFUSED"] * 4
        assert (await agent.commit(ref, "d0")).outcome == "GRANTED"
        assert (await agent.commit(ref, "d1")).reason == "ANOTHER_MANIFEST"
        assert (await Agent(here, "gpu-02").commit(ref, "d0")).reason == "UNKNOWN_ATTEMPT"


@in_virtual_time
async def test_a_commit_that_overtakes_the_first_reports_is_asked_again_not_refused_for_ever(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        ref = await here.placed("j", agent)
        assert (await agent.commit(ref)).outcome == "NOT_NOW"
        await agent.report(ref, 1, n.Started(1), n.Finished(1))
        assert (await agent.commit(ref)).outcome == "GRANTED"


@in_virtual_time
async def test_after_a_cancel_the_commit_is_refused_and_after_a_grant_the_cancel_is(tmp_path):
    async with world(tmp_path) as here:
        agent = Agent(here)
        await agent.sync()
        first = await running(here, agent, "first")
        await here.jobs.cancel("first", project="default")
        assert (await agent.commit(first)).reason == "CANCELLING"
        second = await running(here, agent, "second")
        assert (await agent.commit(second)).outcome == "GRANTED"
        with pytest.raises(Exception, match="being published"):
            await here.jobs.cancel("second", project="default")


@in_virtual_time
async def test_of_two_attempts_that_race_only_the_current_one_may_publish(tmp_path):
    async with world(tmp_path) as here:
        silent, second = Agent(here, cpus=1), Agent(here, "gpu-02", cpus=1)
        await silent.sync()
        ref = await running(here, silent)
        await asyncio.sleep(40)
        await here.recorder.write(here.nodes.give_up_silent)
        await second.sync()
        while await here.dispatcher.round() or (await here.job("j")).state is not State.STARTING:
            pass
        newer = AttemptRef(ref.job_uid, 2)
        assert (await second.claim(newer)).outcome == "GRANTED"
        await second.report(newer, 1, n.Started(2))
        answers = await asyncio.gather(silent.commit(ref, "old"), second.commit(newer, "new"))
        assert [(a.outcome, a.reason) for a in answers] == [("REFUSED", "NOT_CURRENT"), ("GRANTED", "")]


@in_virtual_time
async def test_a_job_sealed_under_a_lost_master_key_can_still_be_cancelled(tmp_path):
    async with world(tmp_path) as here:
        await here.submit("j", **SECRETS)
        here.recorder._vault = MasterVault(b"x" * 32)
        uid = (await here.job("j")).uid
        assert (await here.jobs.cancel("j", project="default")).record.job.state is State.CANCELLED
        assert (await here.store.read(lambda tx: tx.sealed_secrets(uid))).sealed == b""
