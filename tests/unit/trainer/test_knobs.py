"""The fake trainer's options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.trainer import fake
from agent.trainer.failures import ConfigInvalid
from agent.trainer.fake.knobs import KNOBS, read_knobs


def test_nothing_set_gives_every_default():
    assert read_knobs({}) == {knob.name: knob.default for knob in KNOBS}
    assert read_knobs({knob.name: None for knob in KNOBS}) == read_knobs({})


def test_whole_numbers_and_fractions_stand_for_each_other():
    assert read_knobs({"steps": 3.0, "step_seconds": 1}) | {"steps": 3, "step_seconds": 1.0} == read_knobs(
        {"steps": 3, "step_seconds": 1.0}
    )


@pytest.mark.parametrize(
    "options", [{"step": 3}, {"steps": "3"}, {"steps": True}, {"ignore_sigterm": 1}, {"reason": 5}]
)
def test_a_wrong_option_is_named(options: dict[str, object]):
    with pytest.raises(ConfigInvalid, match=rf"^backend_options\.{next(iter(options))}: "):
        read_knobs(options)


def test_the_table_in_the_docstring_names_every_knob():
    text = (Path(fake.__file__).parent / "__main__.py").read_text()
    table = [line for line in text.splitlines() if line.startswith("| `")]
    assert {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])} == {
        knob.name for knob in KNOBS
    }
