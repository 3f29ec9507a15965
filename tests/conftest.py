"""What holds for every suite."""

from __future__ import annotations

from hypothesis import settings

# A machine that is busy is no failure: nothing here asserts on wall time.
settings.register_profile("trainplane", deadline=None)
settings.load_profile("trainplane")
