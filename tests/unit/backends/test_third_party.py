"""Engines of others: held to the contract, and never fatal."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from trainplane.backends import BackendError
from trainplane.backends.estimate import Estimate
from trainplane.backends.third_party import GROUP, loaded


class Good:
    name = "good"
    description = "Does well."

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def validate(self, effective_spec: dict[str, Any]) -> Any:
        return [("backend_options.x", "UNKNOWN_FIELD", "no such")] if effective_spec.get("backend_options") else []

    def command(self, python: str, attempt_dir: str) -> Any:
        return [python, attempt_dir]


def engine(**changed: Any) -> Any:
    """A good one but for these."""
    return type("Changed", (Good,), changed)


def raising(*_: Any, **__: Any) -> Any:
    raise RuntimeError("it broke")


@pytest.fixture
def point():
    """Makes entry points of objects, as if a distribution had them."""
    module = ModuleType("engines_of_others")
    sys.modules[module.__name__] = module

    def make(name: str, made: Any) -> EntryPoint:
        setattr(module, name, made)
        return EntryPoint(name, f"{module.__name__}:{name}", GROUP)

    yield make
    del sys.modules[module.__name__]


def test_an_engine_may_be_an_object_or_a_class_and_is_known_by_its_own_name(point):
    found, broken = loaded([point("a", Good()), point("b", engine(name="other"))], taken=["peft"])
    assert (sorted(found), broken) == (["good", "other"], ())
    good = found["good"]
    assert (good.description, good.schema()) == ("Does well.", {"type": "object"})
    assert good.validate({"backend_options": {"x": 1}}) == [("backend_options.x", "UNKNOWN_FIELD", "no such")]
    assert good.validate({}) == []
    assert good.command("py", "/a") == ["py", "/a"]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (engine(name="Upper"), "name must be"),
        (engine(name=7), "name must be"),
        (engine(name="peft"), "there is a backend peft already"),
        (engine(schema=raising), "it broke"),
        (engine(schema=lambda _: ["no"]), "schema must be a dict"),
        (engine(schema=lambda _: {"x": object()}), "not JSON serializable"),
        (engine(schema=lambda _: {"x": float("nan")}), "not JSON compliant"),
        (engine(validate=None), "no method validate"),
        (engine(command=None), "no method command"),
        (engine(__init__=raising), "it broke"),
        (object(), "no attribute 'name'"),
    ],
)
def test_what_is_no_engine_is_skipped_told_and_harms_no_other(point, made, why):
    found, broken = loaded([point("bad", made), point("ok", Good)], taken=["peft"])
    assert list(found) == ["good"]
    assert why in broken[0].why
    assert broken[0].entry_point == "bad = engines_of_others:bad"


def test_one_that_cannot_be_imported_is_skipped_whatever_that_raises(point):
    missing = EntryPoint("gone", "no_such_module_at_all:X", GROUP)
    found, broken = loaded([missing, point("ok", Good)], taken=[])
    assert list(found) == ["good"]
    assert "ModuleNotFoundError" in broken[0].why


def test_of_two_with_one_name_the_first_is_taken(point):
    found, broken = loaded([point("a", engine(description="first")), point("b", Good)], taken=[])
    assert found["good"].description == "first"
    assert "already" in broken[0].why


@pytest.mark.parametrize("said", [raising, lambda *_: None, lambda *_: [("two", "words")], lambda *_: [1]])
def test_one_that_fails_to_judge_refuses_the_spec_in_words(point, said):
    found, _ = loaded([point("a", engine(validate=said))], taken=[])
    ((field, reason, description),) = found["good"].validate({})
    assert (field, reason) == ("backend", "BACKEND_BROKEN")
    assert "backend good" in description
    assert "it broke" not in description  # its words may hold anything of the request's


@pytest.mark.parametrize("said", [raising, lambda *_: [], lambda *_: ["a", 1], lambda *_: None])
def test_one_that_fails_to_say_how_it_is_started_is_an_error_with_a_name(point, said):
    found, _ = loaded([point("a", engine(command=said))], taken=[])
    with pytest.raises(BackendError, match="backend good"):
        found["good"].command("py", "/a")


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (engine(), "backend good does not estimate"),
        (engine(estimate=raising), "backend good failed to estimate (RuntimeError)"),
        (engine(estimate=lambda *_, **__: {"steps": 1}), "backend good made no estimate"),
    ],
)
def test_of_one_that_makes_no_estimate_nothing_is_known(point, made, why):
    found, _ = loaded([point("a", made)], taken=[])
    assert found["good"].estimate({}, {}, on_gpu=True, tokens_per_second=0.0) == Estimate.nothing(why)


def test_an_estimate_of_another_s_goes_through(point):
    found, _ = loaded([point("a", engine(estimate=lambda *_, **__: Estimate(steps=7)))], taken=[])
    assert found["good"].estimate({}, {}, on_gpu=True, tokens_per_second=0.0).steps == 7
