"""The driver's version as its kernel module says it, whichever of its forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.trainer.device import driver_version

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: gcc 12.2.0\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65  Release Build  (dvs@host)\n", "580.65"),
        ("something else", None),
    ],
)  # fmt: skip
def test_the_driver_says_its_version(tmp_path: Path, said: str, version: str | None) -> None:
    assert driver_version(tmp_path) is None
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "driver" / "nvidia" / "version").write_text(said)
    assert driver_version(tmp_path) == version
