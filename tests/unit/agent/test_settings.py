"""Settings: three sources in order, unknown keys refused, inventories as declared."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from agent import devices, settings
from agent.__main__ import main
from agent.storage.access import StorageSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text('node = "from-file"\nnats = "nats://file:1"\ncpus = 3\n')
    return path


@pytest.fixture
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINPLANE_AGENT_NATS", "nats://environment:1")
        patch.setenv("TRAINPLANE_AGENT_MODEL_ROOT", '["/models"]')
        yield patch


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    toml: Path, environment: pytest.MonkeyPatch
) -> None:
    chosen = settings.load({"node": "from-flag"}, toml=toml)
    assert (chosen.node, chosen.nats, chosen.cpus) == ("from-flag", "nats://environment:1", 3)
    assert chosen.model_root == (Path("/models"),)


def test_an_unknown_key_in_the_file_is_an_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.toml").write_text('nood = "x"\n')
    assert main(["--config", str(tmp_path / "agent.toml")]) == 2
    assert "nood" in capsys.readouterr().err


def test_a_settings_file_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "missing.toml")]) == 2
    assert "missing.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hub_endpoint", "https://user:password@hub"),
        ("hub_endpoint", "hub.internal"),
        ("cache_gb", 0),
        ("allowed_networks", ("10.0.0.0/33",)),
        ("node", "a.b"),
        ("node", ""),
        ("gpus", "A100"),
        ("gpus", "0xA100"),
        ("cpus", 0),
        ("memory_gb", -1),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        settings.load({name: value})


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        settings.load({"nats": "nats://me:canary@host"})
    assert "canary" not in str(caught.value)


def test_every_setting_says_what_it_means() -> None:
    undocumented = [name for name, field in settings.Settings.model_fields.items() if not field.description]
    assert undocumented == []


def test_an_agent_loads_no_client_of_an_object_store_nor_a_trainers_libraries() -> None:
    heavy = {"boto3", "botocore", "s3transfer", "torch", "transformers", "huggingface_hub"}
    said = subprocess.run(
        [sys.executable, "-c", "import sys, agent.app; print(*{name.partition('.')[0] for name in sys.modules})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert heavy & set(said.stdout.split()) == set()


def test_how_object_stores_are_reached_is_told_to_every_child(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    chosen = settings.load(
        {"node": "n", "s3_endpoint": "http://s3:9000", "sts_endpoint": "https://sts", "ca_bundle": str(bundle)}
        | {"s3_checksums": True}
    )
    assert chosen.storage() == StorageSettings("http://s3:9000", "https://sts", None, str(bundle), s3_checksums=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("s3_endpoint", "s3:9000"), ("sts_endpoint", "https://me:canary@sts"), ("ca_bundle", "/no/such/file.pem")],
)
def test_a_store_that_could_not_be_reached_so_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name) as caught:
        settings.load({"node": "n", name: value})
    assert "canary" not in str(caught.value)


def test_stand_in_devices_are_named_as_a_driver_would() -> None:
    chosen = settings.load({"node": "n", "gpus": "4xA100", "labels": {"zone": "a"}})
    inventory = chosen.inventory()
    assert [gpu.index for gpu in inventory.gpus] == [0, 1, 2, 3]
    assert {gpu.kind for gpu in inventory.gpus} == {"NVIDIA A100-SXM4-80GB"}
    assert (inventory.cpus, inventory.memory_bytes) == (32, 256 * devices.GIB)
    assert inventory.simulated
    assert inventory.labels == {"zone": "a"}


def test_a_stand_in_of_an_unknown_type_keeps_its_name() -> None:
    assert devices.parse_stand_in("1xMI300X") == (devices.Gpu(0, "MI300X", 80 * devices.GIB),)


def test_a_real_inventory_offers_no_more_than_there_is() -> None:
    everything = settings.load({"node": "n"}).inventory()
    less = settings.load({"node": "n", "cpus": 1, "memory_gb": 0.5}).inventory()
    more = settings.load({"node": "n", "cpus": 10_000, "memory_gb": 1e9}).inventory()
    assert not everything.simulated
    assert (less.cpus, less.memory_bytes) == (1, devices.GIB // 2)
    assert (more.cpus, more.memory_bytes) == (everything.cpus, everything.memory_bytes)


def test_the_help_names_every_flag_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    flags = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
    assert flags >= {
        "--nats",
        "--node",
        "--credentials",
        "--data-dir",
        "--gpus",
        "--cpus",
        "--memory-gb",
        "--label",
        "--model-root",
        "--s3-endpoint",
        "--sts-endpoint",
        "--s3-region",
        "--ca-bundle",
    }
    assert "--end-trainers-on-exit" in flags


def test_the_hub_is_the_settings_else_the_environments_else_the_public_one(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("HF_ENDPOINT", raising=False)
    assert settings.load({}).inputs().hub_endpoint == "https://huggingface.co"
    environment.setenv("HF_ENDPOINT", "https://mirror.internal/")
    assert settings.load({}).inputs().hub_endpoint == "https://mirror.internal"
    assert settings.load({"hub_endpoint": "http://other"}).inputs().hub_endpoint == "http://other"


def test_models_are_kept_below_the_data_directory_unless_a_setting_says_where(tmp_path: Path) -> None:
    kept = settings.load({"data_dir": str(tmp_path), "cache_gb": 2}).inputs()
    assert (kept.cache_dir, kept.cache_bytes) == (str(tmp_path / "cache"), 2 << 30)
    assert settings.load({"cache_dir": "/models"}).inputs().cache_dir == "/models"
