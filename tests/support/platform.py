"""Everything that the users' own request reaches, on this machine: a hub mirror, S3 and STS, a company's HTTPS hosts.

And `trainplane up` on a stand-in for four A100, told of it by the settings that a platform has: settings files, the
environment of a shell. Nothing of the request is changed for it.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.authority import Authority
from tests.support.aws import CREDENTIALS, REGION, Aws, aws
from tests.support.https_receiver import HttpsReceiver
from tests.support.hub import HubMirror
from tests.support.stack import ROOT
from tests.support.tiny_models import write_tiny_model
from tests.support.up import Up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED_FILE = ROOT / "examples" / "seed-train-request.json"
MODEL = "meta-llama/Llama-2-7b"
HUB_TOKEN = "hf_xxx"
DATASET = "s3://bucket/dataset.jsonl"


def dataset(rows: int) -> bytes:
    """So many rows, no two alike, all of them short."""
    lines = (json.dumps({"prompt": f"What is {n} and {n}?", "completion": f" {2 * n}."}) for n in range(rows))
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass
class Platform:
    """See the module."""

    directory: Path
    model: Path
    commit: str
    hub: HubMirror
    aws: Aws
    webhook: HttpsReceiver
    events: HttpsReceiver
    up: Up

    def curl(self, body: Path, path: str = "/train") -> tuple[int, Any]:
        """Post a file as users do; the status and the answer."""
        command = ["curl", "-sS", "-w", "\n%{http_code}", "-H", "content-type: application/json"]
        ran = subprocess.run(
            [*command, "--data-binary", f"@{body}", f"{self.up.record['http']}{path}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        answer, _, status = ran.stdout.rpartition("\n")
        return int(status), json.loads(answer)

    def job(self, job_id: str) -> dict[str, Any]:
        """A job as it is now."""
        status, job = self.up.http("GET", f"/train/{job_id}")
        assert status == 200, job
        return dict(job)

    def history(self, job_id: str) -> list[dict[str, Any]]:
        """Its events."""
        found: list[dict[str, Any]] = []
        while True:
            path = f"/train/{job_id}/events?after_sequence={len(found)}"
            page = self.up.http("GET", path)[1]["events"]
            if not page:
                return found
            found += page


@contextmanager
def platform(directory: Path, *, rows: int) -> Iterator[Platform]:
    """All of it runs while the context lasts."""
    with ExitStack() as opened:
        authority = Authority(directory / "ca")
        hub = opened.enter_context(HubMirror().running())
        cloud = opened.enter_context(aws())
        webhook = opened.enter_context(HttpsReceiver(authority.server("webhook.internal")).running())
        events = opened.enter_context(HttpsReceiver(authority.server("events.internal")).running())
        model = write_tiny_model(directory / "model")
        commit = hub.serve(MODEL, model, token=HUB_TOKEN)
        cloud.make_bucket()
        cloud.put(DATASET, dataset(rows))
        (directory / "controlplane.toml").write_text(
            f'ca_bundle = "{authority.bundle}"\n'
            "[connect_to]\n"
            f'"webhook.internal:443" = "127.0.0.1:{webhook.port}"\n'
            f'"events.internal:443" = "127.0.0.1:{events.port}"\n'
        )
        (directory / "agent.toml").write_text(
            f's3_endpoint = "{cloud.url}"\nsts_endpoint = "{cloud.url}"\ns3_region = "{REGION}"\n'
            f'hub_endpoint = "{hub.url}"\n'
        )
        files = ("--controlplane-config", str(directory / "controlplane.toml"))
        files += ("--agent-config", str(directory / "agent.toml"))
        shell = {**CREDENTIALS, "AWS_CONFIG_FILE": str(directory / "none")}
        up = Up(directory / "data", flags=("--gpus", "4xA100", *files), environment=shell)
        opened.callback(up.end)
        up.start()
        yield Platform(directory, model, commit, hub, cloud, webhook, events, up)
