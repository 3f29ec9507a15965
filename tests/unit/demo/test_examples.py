"""Each request file under examples/ is one that the command line can send and the control plane accepts."""

from __future__ import annotations

import json

import pytest

from controlplane.domain.spec import Rules, check, parse
from trainplane.addresses import OutboundRules
from trainplane.cli import request_file
from trainplane.demo import request

EXAMPLES = request.EXAMPLES.parent
#: The seed's own request is the users', for machines with A100 and S3.
FILES = sorted(
    path for path in EXAMPLES.glob("*.[jy]*") if path.suffix in {".json", ".yaml"} and "seed" not in path.name
)
#: Those that need nothing but this checkout.
HERE = [path for path in FILES if "s3" not in path.name]
#: How the README says that trainplane is started: for the fake trainer, in dev mode.
DEV_MODE = {"mock.json"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_accepted_as_it_is(path):
    checked = check(parse(request_file.read(str(path))), rules=Rules(dev_mode=path.name in DEV_MODE))
    assert checked.job_id == path.stem
    assert list(checked.warnings) == []


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.name)
def test_an_example_trains_on_data_that_is_shipped_and_leaves_the_checkout_clean(path):
    spec = json.loads(request_file.read(str(path)))
    for dataset in spec["datasets"]:
        assert dataset["source"].startswith(EXAMPLES.as_uri())
    assert spec["artifacts"]["output_uri"].startswith((EXAMPLES.parent / ".demo").as_uri() + "/")
    model = EXAMPLES / "demo" if spec.get("backend") == "mock" else EXAMPLES.parent / ".demo" / "model"
    assert spec["base_model"]["model_name"] == str(model)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_explained_in_the_readme(path):
    (row,) = [line for line in (EXAMPLES / "README.md").read_text().splitlines() if f"[{path.name}]" in line]
    assert ("`trainplane up --dev`" in row) == (path.name in DEV_MODE)
    assert f"trainplane submit --watch examples/{path.name}" in (EXAMPLES / "README.md").read_text()


def test_the_demos_request_is_accepted():
    places = request.Places(
        job_id="demo",
        model_dir=EXAMPLES.parent / ".demo" / "model",
        output_dir=EXAMPLES.parent / ".demo" / "adapter",
        webhook_url="http://127.0.0.1:4711/webhook",
    )
    rules = Rules(outbound=OutboundRules.of(networks=("127.0.0.0/8",)))
    checked = check(parse(json.dumps(request.build(places)).encode()), rules=rules)
    assert list(checked.warnings) == []
