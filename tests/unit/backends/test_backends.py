"""The training engines as both sides of the platform see them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainplane import backends
from trainplane.backends.mock import OPTIONS

ROOT = Path(__file__).parents[3]
KNOBS = ROOT / "agent" / "trainer" / "fake" / "knobs.py"


def _knobs() -> dict[str, Any]:
    """The fake trainer's own table, name -> default, read as text: the trainer is imported by nothing."""
    for node in ast.parse(KNOBS.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "KNOBS":
            assert isinstance(node.value, ast.Tuple)
            calls = [knob for knob in node.value.elts if isinstance(knob, ast.Call)]
            return {ast.literal_eval(call.args[0]): ast.literal_eval(call.args[1]) for call in calls}
    raise AssertionError("knobs.py has no table KNOBS")


def _found(name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    backend = backends.find(name)
    assert backend is not None
    return [(field, reason) for field, reason, _ in backend.validate({"backend_options": options})]


def test_the_mock_s_options_are_the_fake_trainer_s_knobs():
    assert {name: type(default) for name, default in _knobs().items()} == OPTIONS


def test_every_knob_s_default_is_accepted():
    assert _found("mock", _knobs()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"stepz": 1}, "UNKNOWN_FIELD"),
        ({"steps": "3"}, "WRONG_TYPE"),
        ({"steps": True}, "WRONG_TYPE"),
        ({"steps": 1.5}, "WRONG_TYPE"),
        ({"steps": [3]}, "WRONG_TYPE"),
        ({"ignore_sigterm": 1}, "WRONG_TYPE"),
        ({"reason": 5}, "WRONG_TYPE"),
        ({"steps": -1}, "OUT_OF_RANGE"),
        ({"steps": 2**31}, "OUT_OF_RANGE"),
        ({"step_seconds": -0.1}, "OUT_OF_RANGE"),
        ({"reason": ""}, "OUT_OF_RANGE"),
        ({"reason": "X" * 64}, "OUT_OF_RANGE"),
        ({"reason": "A\nB"}, "OUT_OF_RANGE"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], reason: str):
    (name,) = options
    assert _found("mock", options) == [(f"backend_options.{name}", reason)]


def test_a_whole_number_stands_for_a_number():
    assert _found("mock", {"step_seconds": 1, "reports_per_second": 5000}) == []


def test_real_training_has_no_options():
    assert _found("peft", {}) == []
    assert _found("peft", {"steps": 3}) == [("backend_options.steps", "UNKNOWN_FIELD")]


def test_every_engine_is_found_by_its_name_and_no_other():
    for name, backend in backends.OURS.items():
        assert backends.find(name) is backend
        assert backend.name == name
    assert backends.find("turbo") is None


@pytest.mark.parametrize(("name", "module"), [("peft", "agent.trainer"), ("mock", "agent.trainer.fake")])
def test_the_command_line_starts_a_module_that_exists(name: str, module: str):
    backend = backends.find(name)
    assert backend is not None
    argv = backend.command("/usr/bin/python3", "/data/attempts/x.1")
    assert argv == ["/usr/bin/python3", "-m", module, "/data/attempts/x.1"]
    assert (ROOT / Path(*module.split(".")) / "__main__.py").is_file()


def test_asking_an_engine_loads_nothing_heavy():
    code = "import sys, trainplane.backends; sys.exit(any(m in sys.modules for m in ('torch', 'peft', 'google.protobuf', 'agent')))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
