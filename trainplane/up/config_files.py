"""Settings files that `up` passes to the control plane and the agent: what they may say, asked before anything starts.

What `up` itself decides (ports, places, names) must not stand in such a file: two words on one thing would leave the
user guessing which one holds. All other keys are the program's own, which judges them itself (`--check`).
"""

from __future__ import annotations

import subprocess
import tomllib
from typing import TYPE_CHECKING

from trainplane.up.errors import SettingsRefused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CHECK_SECONDS = 60.0


def refuse_conflicts(file: Path, decided: Mapping[str, str]) -> frozenset[str]:
    """The keys of a settings file, none of which `up` decides.

    Args:
        file: TOML.
        decided: the keys that `up` sets, each with the flag of `up` that changes it; empty: none does.

    Raises:
        SettingsRefused: the file cannot be read, is no TOML, or sets what `up` decides.
    """
    try:
        keys = frozenset(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsRefused(f"{file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of TOML, and of UTF-8
        raise SettingsRefused(f"{file} is no TOML: {error}") from None
    problems = [
        f"  {key}: `trainplane up` decides this" + (f"; use {decided[key]} instead" if decided[key] else "")
        for key in sorted(keys & decided.keys())
    ]
    if problems:
        raise SettingsRefused("\n".join([f"{file} sets what it may not:", *problems]))
    return keys


def refuse_what_the_program_refuses(file: Path, argv: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Have the program read the settings that it is about to get. Blocks for as long as it takes to import them.

    Raises:
        SettingsRefused: it finds them wrong; has its words.
    """
    command = (*argv, "--check")
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environment),
            timeout=_CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsRefused(f"{file} could not be checked: {error}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SettingsRefused("\n".join([f"{file} is refused:", *(f"  {line}" for line in said)]))
