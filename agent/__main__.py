"""`trainplane-agent`: reads the settings once, and runs the agent."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from agent import __version__, lock, settings

_USAGE_STATUS = 2


def main(argv: list[str] | None = None) -> int:
    """Run the agent; the process' exit status: 0 told to end, 1 a fault, 2 wrong settings."""
    given = vars(_parser().parse_args(argv))
    checking = given.pop("check")
    overrides = {name: value for name, value in given.items() if value not in (None, [], False)}
    toml = overrides.pop("config", None) or os.environ.get(f"{settings.ENV_PREFIX}CONFIG")
    try:
        chosen = settings.load(_renamed(overrides), toml=None if toml is None else Path(toml))
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            print(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return _USAGE_STATUS
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return _USAGE_STATUS
    if checking:
        return 0
    _configure_logging()
    structlog.get_logger().info("agent starting", version=__version__, pid=os.getpid(), **chosen.shown())
    from agent import app

    try:
        return asyncio.run(app.run(chosen))
    except lock.DataDirHeldError as error:
        print(error, file=sys.stderr)
        return 1


def _renamed(overrides: dict[str, Any]) -> dict[str, Any]:
    """Flags are singular where they repeat; `k=v` pairs become a map."""
    labels = overrides.pop("label", None)
    if labels:
        overrides["labels"] = dict(labels)
    if interpreters := overrides.get("backend_python"):
        overrides["backend_python"] = dict(interpreters)
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainplane-agent",
        description="Runs trainers on this host for a trainplane control plane.",
        epilog=f"Each flag is also an environment variable: --data-dir is {settings.ENV_PREFIX}DATA_DIR.",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with the same settings")
    parser.add_argument("--check", action="store_true", help="say whether the settings can be used, and end")
    parser.add_argument("--nats", metavar="URL", help="default nats://127.0.0.1:4222")
    parser.add_argument("--node", metavar="NAME", help="this node's name; default the host's")
    parser.add_argument("--credentials", metavar="FILE", help="the node's NATS credentials")
    parser.add_argument("--data-dir", metavar="DIR", help="default ~/.local/share/trainplane/agent")
    parser.add_argument("--gpus", metavar="NxTYPE", help="stand in for GPUs, as 4xA100; 0 for none")
    parser.add_argument("--cpus", type=int, metavar="N", help="CPU cores to offer")
    parser.add_argument("--memory-gb", type=float, metavar="N", help="GiB of memory to offer")
    parser.add_argument("--label", action="append", type=_pair, metavar="KEY=VALUE", help="may be repeated")
    parser.add_argument("--model-root", action="append", metavar="DIR", help="where local models may lie; repeatable")
    parser.add_argument("--s3-endpoint", metavar="URL", help="an S3-compatible store; default AWS")
    parser.add_argument("--sts-endpoint", metavar="URL", help="where roles are assumed; default AWS")
    parser.add_argument("--s3-region", metavar="NAME", help="default as the AWS configuration says")
    parser.add_argument("--ca-bundle", metavar="FILE", help="PEM file of whom to trust for these endpoints")
    parser.add_argument("--hub-endpoint", metavar="URL", help="a model hub; default HF_ENDPOINT, or the public one")
    parser.add_argument("--hub-token-file", metavar="FILE", help="the platform's hub token, for jobs without one")
    parser.add_argument("--cache-dir", metavar="DIR", help="where models are kept; default cache in the data directory")
    parser.add_argument("--cache-gb", type=float, metavar="N", help="GiB of models to keep; default 200")
    parser.add_argument(
        "--backend-python",
        action="append",
        type=_pair,
        metavar="BACKEND=PYTHON",
        help="the Python that a backend's trainers run in; repeatable; default the agent's own",
    )
    parser.add_argument(
        "--rendezvous-address",
        metavar="HOST",
        help="where other nodes reach trainers here; default the address by which it reaches NATS, unless loopback",
    )
    parser.add_argument(
        "--end-trainers-on-exit", action="store_true", help="end all trainers when the agent is told to end"
    )
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    return key, value


def _configure_logging() -> None:
    """One line per event on stderr: pretty on a terminal, else JSON."""
    renderer: Any = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
