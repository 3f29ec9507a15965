"""A real nats-server with the very configuration that `trainplane up` gives it, on a port of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats.errors
import pytest
from nats.aio.client import Client, RawCredentials

from tests.support.freezing import freeze
from trainplane.up.nats import NatsServer, command, render
from trainplane.wire import subjects
from trainplane.wire.credentials import Installation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

START_SECONDS = 60.0


@dataclass
class Natsd:
    """The server's process, its keys and its files. Synchronous, so that a fixture of any scope may own it."""

    directory: Path
    anonymous: bool = True
    keys: Installation = field(default_factory=Installation.new)
    port: int = -1
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        return self.directory / "jetstream"

    def log(self) -> str:
        return (self.directory / "nats-server.log").read_text()

    def start(self) -> None:
        """Returns when it accepts connections. The first start takes a free port; later ones keep it."""
        trust = self.keys.trust(anonymous=self.anonymous)
        config = self.directory / "nats-server.conf"
        config.write_text(render(NatsServer(trust, store_dir=self.store, port=self.port)))
        argv = [*command(config), "--ports_file_dir", str(self.directory)]
        with (self.directory / "nats-server.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, stdout=log)
        self._await_ready(self.process)

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        ports = self.directory / f"nats-server_{process.pid}.ports"
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if process.poll() is not None:
                raise AssertionError(f"nats-server ended with {process.returncode}:\n{self.log()}")
            with contextlib.suppress(FileNotFoundError, ValueError, OSError):
                self.port = int(json.loads(ports.read_text())["nats"][0].rsplit(":", 1)[1])
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.005)
        raise AssertionError(f"nats-server not ready within {START_SECONDS} s:\n{self.log()}")

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            if how is not signal.SIGKILL:
                self.process.send_signal(signal.SIGCONT)  # a stopped one would not hear it
            self.process.wait(timeout=60)
            self.process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, from when this returns."""
        assert self.process is not None
        freeze(self.process.pid)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Killed and started again on the same port with the same store."""
        self.kill()
        self.start()

    def wipe(self) -> None:
        """Killed, its whole store deleted, and started again."""
        self.kill()
        shutil.rmtree(self.store)
        self.start()

    def control_plane(self) -> str:
        """Credentials of the control plane."""
        return self.keys.mint_control_plane()

    def node(self, name: str) -> str:
        """Credentials of an agent."""
        return self.keys.mint_node(name)

    async def connect(self, credentials: str = "", **options: Any) -> Client:
        """A connection that gives up quickly; without credentials, as an anonymous client.

        Raises nats.errors.Error where the server refuses.
        """
        if credentials:
            options["user_credentials"] = RawCredentials(credentials)
        options.setdefault("error_cb", _ignore)
        client = Client()
        try:
            await client.connect(self.url, **{"allow_reconnect": False, **options})
        except BaseException:
            await client.close()  # the library leaves the socket open
            raise
        if not client.is_connected:  # the library takes a connection that is closed at once for one that is made
            await client.close()
            raise nats.errors.Error("the server closed the connection")
        return client

    async def connect_node(self, name: str, **options: Any) -> Client:
        """A connection as an agent has it."""
        return await self.connect(self.node(name), inbox_prefix=subjects.inbox_prefix(name), **options)


async def _ignore(_error: Exception) -> None:
    """What the client library would otherwise log; tests look at what follows from errors."""


@pytest.fixture
def natsd(tmp_path: Path) -> Iterator[Natsd]:
    """A running server, ended with the test."""
    directory = tmp_path / "natsd"
    directory.mkdir()
    server = Natsd(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Connections:
    """Closes every connection that a test opened."""

    server: Natsd
    opened: list[Client] = field(default_factory=list)

    async def anonymous(self, **options: Any) -> Client:
        return self._keep(await self.server.connect(**options))

    async def node(self, name: str, **options: Any) -> Client:
        return self._keep(await self.server.connect_node(name, **options))

    async def credentials(self, text: str, **options: Any) -> Client:
        return self._keep(await self.server.connect(text, **options))

    def _keep(self, client: Client) -> Client:
        self.opened.append(client)
        return client


@pytest.fixture
async def connections(natsd: Natsd) -> AsyncIterator[Connections]:
    """Opens connections to `natsd`."""
    kit = Connections(natsd)
    yield kit
    for client in kit.opened:
        await client.close()
