"""The engines of this project, each as it is run: the first two in this environment, the third in its own."""

from __future__ import annotations

import sys

import pytest

pytest.register_assert_rewrite("agent.conformance.suite", "agent.conformance.subject")

from agent.conformance.subject import FOR_EVER, Subject  # noqa: E402 - after the rewrite
from tests.support import own_environment  # noqa: E402
from tests.support.tiny_models import write_tiny_model  # noqa: E402
from trainplane import backends  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    return own_environment.made(tmp_path_factory.mktemp("bare") / "env", own_environment.BARE, extra="train")


@pytest.fixture(scope="session")
def judge(tmp_path_factory, bare_python):
    """Where `bare` is installed as in a control plane's and an agent's environment: its torch-free half."""
    return own_environment.half(bare_python, tmp_path_factory.mktemp("judge") / "site")


@pytest.fixture(scope="module", params=["peft", "bare", "mock"])
def subject(request, tiny_model):
    if request.param == "peft":
        yield Subject("peft", tiny_model)
    elif request.param == "mock":
        quick = {"backend_options": {"steps": 12, "step_seconds": 0.01, "metrics": True}}
        for_ever = {"backend_options": {"steps": FOR_EVER}}
        yield Subject("mock", tiny_model, changes=quick, for_ever=for_ever, trains=False)
    else:
        python, site = request.getfixturevalue("bare_python"), request.getfixturevalue("judge")
        sys.path.insert(0, str(site))
        backends.forget()
        yield Subject("bare", tiny_model, python=str(python))
        sys.path.remove(str(site))
        backends.forget()


def pytest_collection_modifyitems(config, items):
    """A stand-in is not held to what only a training can show: such tests are left out, not skipped."""

    def applies(item) -> bool:
        of_trainers = getattr(getattr(item, "function", None), "of_trainers", False)
        return not (of_trainers and getattr(item, "callspec", None) and item.callspec.params.get("subject") == "mock")

    left_out = [item for item in items if not applies(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if applies(item)]
