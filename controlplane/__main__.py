"""`trainplane-controlplane`: reads the settings once, and runs the control plane."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

import structlog
import uvloop
from pydantic import ValidationError

from controlplane import settings
from controlplane.engine.ports import BusUnavailable, StoreUnavailable
from controlplane.rpc.server import PortTaken
from controlplane.vault import MasterKeyError

_USAGE_STATUS = 2


def main(argv: list[str] | None = None) -> int:
    """Runs the control plane; the process' exit status: 0 told to end, 1 a fault, 2 wrong settings."""
    given = vars(_parser().parse_args(argv))
    checking = given.pop("check")
    overrides = {name: value for name, value in given.items() if value is not None and value is not False}
    toml = overrides.pop("config", None) or os.environ.get(f"{settings.ENV_PREFIX}CONFIG")
    try:
        chosen = settings.load(overrides, toml=None if toml is None else Path(toml))
        chosen.outbound()
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
    structlog.get_logger().info("control plane starting", pid=os.getpid(), **chosen.shown())
    from controlplane import app
    from controlplane.store import SchemaUnknown, StoreHeld

    # What is imported stays: the collector need not walk it again and again, which was a fifth of each submit's time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        return uvloop.run(app.run(chosen, ready=lambda address: print(f"ready grpc={address}", flush=True)))
    except (StoreUnavailable, StoreHeld, SchemaUnknown, BusUnavailable, PortTaken, MasterKeyError, OSError) as error:
        why = f": {error.__cause__}" if error.__cause__ else ""
        print(f"{error}{why}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainplane-controlplane",
        description="Takes fine-tuning jobs and has agents train them.",
        epilog=f"Each flag is also an environment variable: --data-dir is {settings.ENV_PREFIX}DATA_DIR.",
    )
    flag = parser.add_argument
    flag("--config", metavar="FILE", help="a TOML file with the same settings")
    flag("--check", action="store_true", help="say whether the settings can be used, and end: 0 yes, 2 no")
    flag("--grpc-host", metavar="ADDRESS", help="default 127.0.0.1")
    flag("--grpc-port", type=int, metavar="PORT", help="default 50051; 0: any free one, which is printed")
    flag("--nats", metavar="URL", help="default nats://127.0.0.1:4222")
    flag("--nats-credentials", type=Path, metavar="FILE", help="of the control plane's NATS user")
    flag("--data-dir", type=Path, metavar="DIR", help="logs of trainers, and with SQLite the database")
    flag("--database", metavar="URL", help="sqlite:///PATH or postgresql://…; default: SQLite in the data directory")
    flag("--master-key", type=Path, metavar="FILE", help="seals secrets; made if absent")
    flag("--dev", action="store_true", help="allow backend mock, serve reflection")
    flag("--allow-loopback", action="store_true", help="webhooks may go to this machine")
    flag("--ready-with-node", action="store_true", help="be ready only once a node has synced")
    return parser


def _configure_logging() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    sys.exit(main())
