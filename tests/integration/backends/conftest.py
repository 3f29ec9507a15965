"""The same house as the trainer's own tests: one thread, a tiny model, attempts in this process."""

from __future__ import annotations

from tests.integration.trainer.conftest import _one_thread, attempt, pytest_configure, tiny_model

__all__ = ["_one_thread", "attempt", "pytest_configure", "tiny_model"]
