"""`trainplane-gateway`: run Envoy in front of a control plane, or print or check its configuration."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gateway.launcher import ConfigRefusedError, EnvoyMissingError, check, find_envoy, prepare, render, write_config
from gateway.ports import PortTakenError
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns only if Envoy was not started."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        settings = Settings(**{name: value for name, value in arguments.items() if value is not None})
        if command == "run":
            launch = prepare(settings)
            print(f"gateway {launch.addresses}", flush=True)
            launch.become_envoy()
        if command == "render":
            print(render(settings))
        else:
            check(find_envoy(settings), write_config(settings))
            print("OK")
    except (ValidationError, EnvoyMissingError, ConfigRefusedError, PortTakenError, OSError) as error:
        print(f"trainplane-gateway: {error}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainplane-gateway",
        description="Serve trainplane's HTTP API by Envoy. Each flag is a variable too: TRAINPLANE_GATEWAY_….",
    )
    parser.add_argument(
        "command",
        nargs="?",
        default="run",
        choices=["run", "render", "check"],
        help="run Envoy (the default), print its configuration for an Envoy of your own, or let Envoy check it",
    )
    for name, field in Settings.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=field.description)
        else:
            parser.add_argument(flag, help=field.description)
    return parser


if __name__ == "__main__":
    sys.exit(main())
