"""A tiny real model, and attempts that are trained in this process by the trainer's own main."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.trainer.attempts import Attempt
from tests.integration.trainer.process import starting
from tests.support.tiny_models import write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path


def pytest_configure(config: pytest.Config) -> None:
    # torch's own deprecations, raised when its parts are imported: not this project's to mend.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch.*")
    # PEFT 0.21 reads a property that transformers 5.23 renamed, whoever calls PeftModel.from_pretrained.
    config.addinivalue_line("filterwarnings", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Two workers with two threads each on two cores wait for each other at every barrier of OpenMP."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def attempt(tmp_path: Path, tiny_model: Path) -> Attempt:
    return Attempt(tmp_path, tiny_model)


@pytest.fixture
def start() -> Any:
    """Starts a trainer as a process."""
    yield from starting()


@pytest.fixture(scope="session")
def bare_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer without a chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        write_tiny_model(tmp_path_factory.mktemp("models") / "bare", chat_template=None)
    )
