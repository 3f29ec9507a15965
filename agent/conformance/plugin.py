"""Pytest's options for running the suite against an engine: `-p agent.conformance.plugin`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from agent.conformance.subject import Subject

# Before it is imported.
pytest.register_assert_rewrite("agent.conformance.suite", "agent.conformance.subject")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Name the engine and what it is tested with."""
    group = parser.getgroup("trainplane", "a training engine's conformance")
    group.addoption("--backend", required=True, help="its name; its distribution is installed here")
    group.addoption("--backend-python", default="", help="the Python of its own environment; default this one")
    group.addoption("--model", required=True, help="directory of a small base model that it can train")
    group.addoption("--spec", default="{}", help="JSON: changes to the suite's spec, block by block")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    """The engine that the command line names."""
    from agent.conformance.subject import Subject

    option = request.config.getoption
    return Subject(
        name=option("--backend"),
        model=Path(option("--model")).absolute(),
        python=option("--backend-python"),
        changes=json.loads(option("--spec")),
    )
