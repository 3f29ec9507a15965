"""`trainplane`: the entry. What takes time to import is imported where a Ctrl-C is heeded already."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its status (docs/cli.md lists them)."""
    try:
        from trainplane.cli.commands import app
    except KeyboardInterrupt:
        sys.exit(130)  # as `session.Exit.INTERRUPTED`, which may not have been read yet
    app(prog_name="trainplane")


if __name__ == "__main__":
    main()
