"""Ending what a killed `up` left, where nobody reaps what has ended."""

from __future__ import annotations

import os
import subprocess
import sys

from trainplane.up.leftovers import MARKER

ENDING = """
import sys
from datetime import timedelta
from pathlib import Path
from trainplane.up.layout import Layout
from trainplane.up.leftovers import end_children
end_children(Layout(Path(sys.argv[1])), within=timedelta(hours=1), tell=print)
"""


def test_one_that_has_ended_and_that_nobody_reaps_is_not_waited_for(tmp_path):
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER: str(tmp_path)})
    try:
        # Its parent is this process, which does not look: it stays a zombie.
        done = subprocess.run(
            [sys.executable, "-c", ENDING, tmp_path], check=True, capture_output=True, text=True, timeout=60
        )
        assert f"pid {left.pid}" in done.stdout
        assert left.poll() == -15
    finally:
        left.kill()
        left.wait()
