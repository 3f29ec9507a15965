"""The request that the demo posts: `examples/demo/request.json` with the places of this machine filled in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainplane.demo import precision

#: The demo's files, in the checkout that this package was installed from (`pip install -e`).
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "demo"
TRAIN_FILE = EXAMPLES / "train.jsonl"
HELDOUT_FILE = EXAMPLES / "heldout.jsonl"
PROBE_FILE = EXAMPLES / "probe.json"
REQUEST_FILE = EXAMPLES / "request.json"


@dataclass(frozen=True, slots=True)
class Places:
    """Where this run's things are."""

    job_id: str
    model_dir: Path
    """The local model directory (`trainplane.demo.model`)."""
    output_dir: Path
    """Where the adapter is to be published."""
    webhook_url: str
    """Hears of the job (`trainplane.demo.receiver`)."""
    train_file: Path = TRAIN_FILE


def build(places: Places, *, request_file: Path = REQUEST_FILE, fastest: str = "") -> dict[str, Any]:
    """The body for `POST /train`: the committed request, with every value in capitals replaced.

    Args:
        places: what they are replaced with.
        request_file: the request.
        fastest: the precision that this machine computes fastest in; empty: found out.

    Raises:
        KeyError: the file lacks one of the blocks; the demo's request is broken.
    """
    body: dict[str, Any] = json.loads(request_file.read_text())
    body["job_id"] = places.job_id
    body["base_model"]["model_name"] = str(places.model_dir.absolute())
    body["customization"]["precision"] = fastest or precision.fastest()
    body["datasets"][0]["source"] = places.train_file.absolute().as_uri()
    body["artifacts"]["output_uri"] = places.output_dir.absolute().as_uri() + "/"
    body["callbacks"]["webhook_url"] = places.webhook_url
    return body
