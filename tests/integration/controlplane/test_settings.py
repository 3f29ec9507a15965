"""What a control plane may be told, and what it says when told wrongly."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pydantic import ValidationError

from controlplane import __main__, settings


@pytest.fixture(autouse=True)
def without_ours(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith("TRAINPLANE_"):
            monkeypatch.delenv(name)


def toml(tmp_path, text):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return file


def test_the_command_line_is_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    file = toml(tmp_path, 'grpc_port = 1\ngrpc_host = "127.0.0.2"\nsync_interval = 4\nallowed_hosts = ["*.internal"]')
    monkeypatch.setenv("TRAINPLANE_CONTROLPLANE_GRPC_PORT", "2")
    monkeypatch.setenv("TRAINPLANE_CONTROLPLANE_NODE_GRACE", "45")
    found = settings.load({"grpc_host": "127.0.0.3"}, toml=file)
    assert (found.grpc_host, found.grpc_port) == ("127.0.0.3", 2)
    assert (found.sync_interval, found.node_grace) == (timedelta(seconds=4), timedelta(seconds=45))
    assert found.allowed_hosts == ("*.internal",)


def test_the_grace_is_never_less_than_three_syncs():
    assert settings.load({"node_grace": "1", "sync_interval": "2"}).grace == timedelta(seconds=6)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("grcp_port = 1", "grcp_port"),
        ("[grpc]\nport = 1", "grpc"),
        ('grpc_port = "x"', "grpc_port"),
        ("grpc_port = 70000", "grpc_port"),
        ("grpc_port = -1", "grpc_port"),
        ("sync_interval = 0", "sync_interval"),
        ("sync_interval = -3", "sync_interval"),
        ('node_grace = "soon"', "node_grace"),
        ("node_grace = 0", "node_grace"),
        ('allowed_networks = ["10.0.0.1/8"]', "allowed_networks"),
        ('allowed_networks = ["intranet"]', "allowed_networks"),
        ('database = "mysql://db/x"', "database"),
        ('database = "junk"', "database"),
        ('nats = "nats://user:canary@h:4222"', "nats"),
        ("grpc_port = ", "settings.toml"),
        ('ca_bundle = "/no/such.pem"', "ca_bundle: Value error, /no/such.pem cannot be read: No such file"),
        ('ca_bundle = "/proc/self/stat"', "holds no CA certificates in PEM"),
        ('[connect_to]\n"events.internal" = "127.0.0.1:1"', "must be host:port"),
        ('[connect_to]\n"events.internal:443" = "127.0.0.1"', "must be host:port"),
        ('[connect_to]\n"events.internal:443" = "127.0.0.1:99999"', "must be host:port"),
        ('[connect_to]\n"a.internal:443" = "http://b:1"', "must be host:port"),
        ('[connect_to]\n"10.0.0.1:443" = "127.0.0.1:1"', "only names can be reached elsewhere"),
        ('[connect_to]\n"localhost:443" = "127.0.0.1:1"', "only names can be reached elsewhere"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_with_status_2(tmp_path, capsys, text, told):
    status = __main__.main(["--config", str(toml(tmp_path, text))])
    shown = capsys.readouterr().err
    assert status == 2
    assert told in shown or told == "settings.toml"
    assert shown.strip()
    assert "canary" not in shown
    assert "Traceback" not in shown


def test_an_unknown_variable_of_ours_is_named(monkeypatch, capsys):
    monkeypatch.setenv("TRAINPLANE_CONTROLPLANE_GRPC_PROT", "1")
    assert __main__.main([]) == 2
    assert "TRAINPLANE_CONTROLPLANE_GRPC_PROT" in capsys.readouterr().err


def test_a_settings_file_that_is_not_there_is_named(tmp_path, capsys):
    assert __main__.main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:canary@db/x",
        "postgresql://user:can%40ary@db/x",
        "postgresql://canary@db/x?password=canary",
        "postgresql://db/x?password=canary&sslmode=require",
    ],
)
def test_what_is_shown_at_the_start_holds_no_password(url):
    shown = settings.load({"database": url}).shown()
    assert shown["database"] == "postgresql://db/x"
    assert "canary" not in json.dumps(shown)


def test_wrong_values_are_not_repeated_in_the_error():
    with pytest.raises(ValidationError) as refused:
        settings.load({"grpc_port": "canary"})
    assert "canary" not in str(refused.value)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        settings.load({}).grpc_port = 1
