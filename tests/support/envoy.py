"""The gateway as a user starts it: `python -m gateway`, on a free port, in front of a given control plane."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass(frozen=True)
class Gateway:
    """A running gateway.

    Attributes:
        host, port: where it listens.
        process: Envoy itself, since the launcher becomes it.
    """

    host: str
    port: int
    process: Process

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@asynccontextmanager
async def run_gateway(upstream: str, *, data_dir: Path, flags: tuple[str, ...] = ()) -> AsyncIterator[Gateway]:
    """Run a gateway until the block ends. On entry it accepts connections; the control plane need not be there.

    Args:
        upstream: the control plane, `host:port`.
        data_dir: where its rendered configuration goes.
        flags: further command-line flags, e.g. `("--route-timeout", "0.5")`.

    Raises:
        AssertionError: it did not start; with what it wrote to stderr.
    """
    argv = ["-m", "gateway", "--http-port", "0", "--upstream", upstream, "--data-dir", str(data_dir), *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRAINPLANE_")}
    log = data_dir / "gateway.log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, stdout=PIPE, stderr=stderr, env=environment
        )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert line.startswith("gateway http="), f"the gateway did not start: {line}{log.read_text()}"
        host, port = line.split()[1].removeprefix("http=").rsplit(":", 1)
        gateway = Gateway(host.strip("[]"), int(port), process)
        await eventually(lambda: _accepts(gateway))
        yield gateway
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.communicate(), 20)


async def _accepts(gateway: Gateway) -> bool:
    assert gateway.process.returncode is None, "Envoy ended; see gateway.log in its data directory"
    try:
        _, writer = await asyncio.open_connection(gateway.host, gateway.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
