"""What every training engine promises, over every engine; one more is one more parameter of `subject`."""

from __future__ import annotations

from agent.conformance.suite import *  # noqa: F403 - the suite's tests are these
from agent.conformance.suite import killed, runs, whole  # noqa: F401 - fixtures
