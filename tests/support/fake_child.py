"""A child for `up` to supervise: notes when it starts and is asked to stop, and misbehaves on demand.

python fake_child.py NAME JOURNAL [ignore-term] [exit=N] [grandchild] [never-ready]
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

name, journal, *knobs = sys.argv[1:]


def append(line: str) -> None:
    with Path(journal).open("a") as file:
        file.write(line + "\n")


def note(what: str) -> None:
    append(f"{what} {name} {os.getpid()}")


def on_term(*_: object) -> None:
    note("term")
    if "ignore-term" not in knobs:
        os._exit(0)


signal.signal(signal.SIGTERM, on_term)
note("start")
sys.stdout.write(f"hello from {name}\n")
sys.stdout.flush()
for knob in knobs:
    if knob.startswith("exit="):
        sys.stdout.write(f"{name} cannot go on\n")
        sys.exit(int(knob.removeprefix("exit=")))
if "grandchild" in knobs:
    grandchild = subprocess.Popen(["sleep", "600"])
    append(f"start grandchild {grandchild.pid}")
if "never-ready" not in knobs:
    note("ready")
while True:
    threading.Event().wait(60)
