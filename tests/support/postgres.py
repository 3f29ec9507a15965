"""A real PostgreSQL server, made for a test session on a free port, with a migrated template to copy databases from."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

START_SECONDS = 90.0


def binaries() -> Path | None:
    """Where `initdb` and `postgres` are: on PATH, or where Debian puts them (newest first)."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return debian[-1].parent if debian else None


def _as_postgres() -> list[str]:
    """The server refuses to run as root; Debian's package made a user for it."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class Postgres:
    """The server's process and files. `fsync` off is for suites that do not pull the plug."""

    directory: Path
    fsync: bool = False
    port: int = field(default_factory=_free_port)
    process: subprocess.Popen[bytes] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def make(self) -> None:
        """Makes the cluster's files."""
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Returns when it accepts connections."""
        settings = [
            *("-c", f"fsync={'on' if self.fsync else 'off'}"),
            *("-c", "max_connections=60", "-c", "shared_buffers=32MB", "-c", "listen_addresses=127.0.0.1"),
        ]
        argv = [str(self._bin / "postgres"), "-D", str(self._data), "-p", str(self.port), "-k", str(self.directory)]
        with (self.directory / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_postgres(), *argv, *settings], stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while not self._accepts():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"postgres did not start:\n{(self.directory / 'postgres.log').read_text()}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: at once, as after a crash. SIGKILL: the same to the whole process group, without a word."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if how is signal.SIGKILL:
                os.killpg(self.process.pid, how)
            else:
                self.process.send_signal(how)
        self.process.wait(START_SECONDS)
        self.process = None

    def create(self, *, template: str = "template0") -> str:
        """Makes a database of its own; answers its name."""
        name = f"test_{next(self._numbers)}"
        asyncio.run(self._execute(f"CREATE DATABASE {name} TEMPLATE {template}"))
        return name

    def drop(self, name: str) -> None:
        """Removes a database that `create` made, whoever is connected."""
        asyncio.run(self._execute(f"DROP DATABASE {name} WITH (FORCE)"))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _bin(self) -> Path:
        found = binaries()
        assert found is not None
        return found

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*_as_postgres(), str(self._bin / program), *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _accepts(self) -> bool:
        asked = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0


@contextlib.contextmanager
def running(*, fsync: bool = False) -> Iterator[Postgres]:
    """A server while the context lasts.

    Skips, by name, where PostgreSQL is not installed.
    """
    if binaries() is None:
        pytest.skip(
            "NOT TESTED: PostgreSQL (initdb, postgres) is not installed; sh tests/support/install_system_packages.sh"
        )
    # Not in pytest's own directory: only its owner may enter that, and the server runs as another user. In memory where
    # that can be: a database is 300 files.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="trainplane-postgres-", dir=memory))
    server = Postgres(directory, fsync=fsync)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
