"""The control plane as a process: how it starts, ends, and dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.natsd import natsd

__all__ = ["natsd"]
ROOT = Path(__file__).parents[3]


class ControlPlane:
    """One process, with a data directory of its own."""

    def __init__(self, natsd, directory):
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.credentials = directory / "controlplane.creds"
        self.credentials.write_text(natsd.control_plane())
        self.nats = natsd.url
        self.process = None

    def start(self, *more, port=0):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TRAINPLANE_")}
        given = {"--grpc-port": port, "--nats": self.nats, "--nats-credentials": self.credentials}
        argv = [str(part) for pair in given.items() for part in pair] + ["--data-dir", str(self.directory / "data")]
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "controlplane", *argv, *more],
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=environment,
            )  # fmt: skip
        return self

    def ready(self):
        line = self.process.stdout.readline()
        assert line.startswith("ready grpc="), self.log()
        return line.strip().removeprefix("ready grpc=")

    def ended(self, seconds=20):
        return self.process.wait(timeout=seconds)

    def log(self):
        return (self.directory / "log").read_text()

    @property
    def database(self):
        return self.directory / "data" / "trainplane.db"


@pytest.fixture
def start(natsd, tmp_path):
    """Makes control planes, and ends them."""
    made = []

    def new(name="cp"):
        made.append(ControlPlane(natsd, tmp_path / name))
        return made[-1]

    yield new
    for each in made:
        if each.process is not None:
            with contextlib.suppress(ProcessLookupError):
                each.process.kill()
            each.process.wait()
            each.process.stdout.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_told_to(start, how):
    one = start().start()
    host, _, port = one.ready().rpartition(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    began = time.monotonic()
    one.process.send_signal(how)
    assert one.ended() == 0
    assert time.monotonic() - began < 5
    assert '"level": "error"' not in one.log()
    assert "Traceback" not in one.log()


def test_it_ends_cleanly_when_told_while_it_starts(start):
    one = start().start()
    while "control plane starting" not in one.log():
        time.sleep(0.005)
    time.sleep(0.3)
    one.process.terminate()
    assert one.ended() in {0, -signal.SIGTERM}  # before its handler stands, the default one ends it
    assert "Traceback" not in one.log()


def test_a_port_that_is_taken_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one = start().start(port=port)
        assert one.ended() == 1
    # nats-py may log the end of its own start before it.
    assert one.log().splitlines()[-1].startswith(f"cannot listen on 127.0.0.1:{port}")


def test_a_database_that_another_one_holds_is_named_with_its_holder(start):
    first = start().start()
    first.ready()
    second = start().start()
    assert second.ended() == 1
    assert f"process {first.process.pid} has this database open" in second.log()
    assert "Traceback" not in second.log()
    first.process.terminate()
    assert first.ended() == 0


@pytest.mark.parametrize("text", ["", "garbage"])
def test_credentials_that_are_none_end_it_in_words(start, text):
    one = start()
    one.credentials.write_text(text)
    one.start()
    assert one.ended(30) == 1
    assert "Traceback" not in one.log()


def test_a_master_key_that_others_can_read_ends_it_in_words(start):
    one = start()
    key = one.directory / "key"
    key.write_text("x")
    key.chmod(0o644)
    one.start("--master-key", str(key))
    assert one.ended() == 1
    assert "chmod 600" in one.log()


def test_a_loop_that_dies_ends_the_process_and_is_named(start):
    one = start().start()
    one.ready()
    with contextlib.closing(sqlite3.connect(one.database)) as database:
        database.execute("DROP TABLE pending_retries")
    assert one.ended() == 1
    assert '"event": "loop died"' in one.log()
    assert '"loop": "deliveries' in one.log()
