"""That the suite is no formality: what breaks the contract fails it, and `bare` really is alone in its environment."""

from __future__ import annotations

import json
import subprocess

import pytest

from agent.conformance import suite
from agent.conformance.subject import Subject

QUICK = {"steps": 3, "step_seconds": 0.0, "metrics": True}


@pytest.fixture
def ended(tmp_path, tiny_model):
    """Runs the fake trainer to its end, with knobs."""
    begun = []

    def run(**knobs):
        subject = Subject("mock", tiny_model, changes={"backend_options": QUICK | knobs}, trains=False)
        begun.append(subject.run(tmp_path / f"{len(begun)}"))
        begun[-1].end()
        return begun[-1]

    yield run
    for each in begun:
        each.kill()


@pytest.mark.parametrize(
    ("knobs", "check"),
    [
        ({"torn_line_at_step": 2}, suite.test_every_line_is_one_of_the_contract_s),
        ({"exit_code": 7}, suite.test_its_last_line_and_its_exit_status_say_that_it_is_done),
        ({"crash_at_step": 3}, suite.test_progress_begins_with_the_first_step_and_ends_with_the_last),
        ({"metrics": False}, suite.test_every_step_is_one_point_of_the_metrics),
        ({"exit_code": 7}, suite.test_what_it_leaves_can_be_published),
        ({"grandchild": True}, suite.test_no_process_of_it_outlives_it),
    ],
)
def test_a_trainer_that_breaks_the_contract_fails_the_suite(ended, knobs, check):
    check(ended())
    check(ended())
    broken = ended(**knobs)
    with pytest.raises((AssertionError, ValueError)):
        check(broken)


def test_a_training_that_would_not_end_is_seen(tmp_path, tiny_model):
    deaf = {"backend_options": QUICK | {"hang_at_step": 2, "ignore_sigterm": True}}
    run = Subject("mock", tiny_model, changes=deaf, trains=False).run(tmp_path)
    try:
        run.until_it_trains()
        run.process.terminate()
        with pytest.raises(AssertionError, match="it lived 1 s later"):
            run.end(1.0)
        assert run.left() == [run.process.pid]
    finally:
        run.kill()
    assert run.left() == []


def test_bare_s_own_environment_has_what_it_asks_for_and_no_more(bare_python):
    program = (
        "import json, importlib.util as u; "
        "print(json.dumps({n: u.find_spec(n) is not None for n in ('torch', 'safetensors', 'tokenizers', 'trainplane_bare', "
        "'transformers', 'peft', 'accelerate', 'agent', 'trainplane', 'boto3')}))"
    )
    ran = subprocess.run([bare_python, "-I", "-c", program], capture_output=True, text=True, check=True)
    there = {name for name, is_there in json.loads(ran.stdout).items() if is_there}
    assert there == {"torch", "safetensors", "tokenizers", "trainplane_bare"}
