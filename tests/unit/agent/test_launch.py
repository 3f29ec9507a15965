"""Which Python starts a trainer, and what of the agent's own packages it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.launch import Launcher
from agent.run import Assignment, AttemptKey
from agent.settings import Settings


def launch(backend: str, interpreters: dict[str, str], tmp_path: Path):
    spec = {"backend": backend, "base_model": {"provider": "huggingface"}, "customization": {"method": "lora"}}
    key = AttemptKey("01JTEST", 1)
    assignment = Assignment(key, job_id="j", project="default", spec=spec, devices=(), deadline_seconds=None)
    return Launcher(interpreters=interpreters).prepare(assignment, tmp_path)


def test_a_backend_runs_in_the_agent_s_environment_unless_another_is_named(tmp_path):
    own = launch("mock", {"peft": "/opt/peft/bin/python"}, tmp_path)
    assert own.argv[0] == sys.executable
    assert Path(own.environment["PYTHONPATH"]) == Path(__file__).parents[3]


def test_an_environment_of_its_own_gets_none_of_the_agent_s_packages(tmp_path):
    apart = launch("mock", {"mock": "/opt/mock/bin/python"}, tmp_path)
    assert apart.argv[0] == "/opt/mock/bin/python"
    assert "PYTHONPATH" not in apart.environment


def test_what_runs_in_another_environment_is_not_forked_from_the_agent_s_warm_one(tmp_path):
    assert launch("peft", {}, tmp_path).warm
    assert not launch("peft", {"peft": "/opt/peft/bin/python"}, tmp_path).warm


def test_a_python_that_cannot_be_run_is_told_when_the_agent_starts(tmp_path):
    (tmp_path / "python").touch(mode=0o644)
    with pytest.raises(ValidationError, match="named for bare, is no program that can be run"):
        Settings(backend_python={"bare": tmp_path / "python"})
    linked = tmp_path / "linked"
    linked.symlink_to(sys.executable)
    assert Settings(backend_python={"bare": linked}).backend_python == {"bare": linked}
