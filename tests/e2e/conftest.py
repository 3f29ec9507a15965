from __future__ import annotations

import pytest

from tests.support.stack import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Everything but agents; a module's tests share it and name their jobs apart."""
    found = Stack(tmp_path_factory.mktemp("stack"))
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def node(stack):
    """A node with 8 CPUs that stands in for one with 2 L4."""
    stack.join("node-1", "--gpus", "2xL4", "--cpus", "8", "--memory-gb", "16")
    return "node-1"


@pytest.fixture
def own_stack(tmp_path):
    """A stack that a test may break; without Envoy."""
    found = Stack(tmp_path / "stack")
    try:
        found.start(gateway=False)
        yield found
    finally:
        found.stop()
