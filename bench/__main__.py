"""`python -m bench [NAME…]`: all benchmarks, or some. Status 1 if a limit does not hold."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc

from bench import (
    checkpoints,
    estimates,
    events,
    first_step,
    machine,
    memory,
    ranks,
    report,
    start,
    submits,
    training,
    transfer,
    watchers,
)

BENCHMARKS = {
    module.NAME: module
    for module in (
        submits,
        start,
        first_step,
        events,
        watchers,
        memory,
        ranks,
        checkpoints,
        estimates,
        training,
        transfer,
    )
}
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(argv: list[str]) -> int:
    """Runs them one after the other, each with parts of its own; a full run writes RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; none: all")
    names = parser.parse_args(argv).names
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    facts = machine.facts(" ".join(["python -m bench", *names]))
    for name, value in facts:
        print(f"{name}: {value}")
    lines = [line for name in names or BENCHMARKS for line in _measured(name)]
    if not names:
        RESULTS.write_text(report.render(lines, facts=facts))
        print(f"written: {RESULTS}")
    return 0 if all(line.passed for line in lines) else 1


def _measured(name: str) -> list[report.Line]:
    """Its lines, each printed as soon as it is known."""
    began = time.monotonic()
    lines: list[report.Line] = []
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as directory:
        try:
            for line in BENCHMARKS[name].measure(Path(directory) / "stack"):
                lines.append(line)
                print(line.text(), flush=True)
        except (AssertionError, OSError, grpc.RpcError, subprocess.SubprocessError) as error:
            lines.append(report.failure(name, f"{type(error).__name__}: {error}"))
            print(lines[-1].text(), flush=True)
    print(f"     {name} took {time.monotonic() - began:.0f} s", flush=True)
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
