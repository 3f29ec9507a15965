"""`python -m trainplane_bare <attempt directory>`: the first line, then everything else."""

import sys

from trainplane_bare import reports


def main(attempt_directory: str) -> int:
    """Train the attempt; the exit status: 0 after `finished`, 1 after `failed`."""
    reports.started(attempt_directory)

    from trainplane_bare.attempt import run

    return run(attempt_directory)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python -m trainplane_bare <attempt directory>", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1]))
