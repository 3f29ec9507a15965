"""`trainplane-gateway` as a command: what it reads, refuses, renders and becomes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.__main__ import main
from gateway.config import envoy_config
from gateway.descriptors import DESCRIPTOR_SET, UnroutableRpcError, bindings, public_descriptors
from gateway.errors import FAILURES
from gateway.launcher import ConfigRefusedError, EnvoyMissingError, check, find_envoy, render
from gateway.ports import PortTakenError, reserve
from gateway.routes import path_regex
from gateway.settings import Settings
from tests.integration.gateway.canned import canned_control_plane
from tests.integration.gateway.wire import call
from tests.support.envoy import run_gateway


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRAINPLANE_")]:
        monkeypatch.delenv(name)


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/exe").readlink().name


async def test_the_started_process_is_envoy_itself_and_ends_on_sigterm(tmp_path):
    async with run_gateway("127.0.0.1:1", data_dir=tmp_path) as gateway:
        assert _program(gateway.process.pid) == "envoy"
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(gateway.process.wait(), 10) == 0
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(gateway.host, gateway.port)


async def test_two_gateways_run_side_by_side(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    async with (
        canned_control_plane() as canned,
        run_gateway(canned.address, data_dir=folders[0]) as one,
        run_gateway(canned.address, data_dir=folders[1]) as other,
    ):
        assert one.port != other.port
        for gateway in (one, other):
            assert (await call(gateway, "GET", "/train/abc")).status == 200


async def test_a_second_gateway_on_the_same_port_is_refused_and_told_who_has_it(tmp_path):
    async with run_gateway("127.0.0.1:1", data_dir=tmp_path) as gateway:
        argv = [sys.executable, "-m", "gateway", "--http-port", str(gateway.port), "--data-dir", str(tmp_path)]
        second = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.PIPE)
        _, errors = await asyncio.wait_for(second.communicate(), 30)
        assert second.returncode == 2
        assert f"127.0.0.1:{gateway.port} is taken by pid {gateway.process.pid} (envoy)" in errors.decode()


def test_a_reserved_port_is_given_to_nobody_else_but_can_be_listened_on():
    with reserve("127.0.0.1", 0) as held, socket.socket() as listener:
        port = held.getsockname()[1]
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
        with pytest.raises(PortTakenError, match=f"pid {os.getpid()} "):
            reserve("127.0.0.1", port)


async def test_the_admin_interface_listens_only_where_it_is_asked_to(tmp_path):
    assert "admin" not in json.loads(render(Settings()))
    path = tmp_path / "admin.sock"
    async with run_gateway("127.0.0.1:1", data_dir=tmp_path, flags=("--admin", str(path))):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_the_access_log_has_a_line_for_a_request_and_no_query_nor_secret(tmp_path):
    async with (
        canned_control_plane() as canned,
        run_gateway(canned.address, data_dir=tmp_path, flags=("--access-log",)) as gateway,
    ):
        answer = await call(gateway, "GET", "/train?page_token=t0ken", headers={"authorization": "Bearer s3cret"})
        gateway.process.terminate()
        assert gateway.process.stdout is not None
        written = (await asyncio.wait_for(gateway.process.stdout.read(), 10)).decode()
    line = json.loads(written.splitlines()[0])
    assert (line["method"], line["path"], line["status"]) == ("GET", "/train", 200)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert "t0ken" not in written
    assert "s3cret" not in written


def test_render_prints_a_configuration_that_needs_no_other_file(tmp_path, capsys):
    assert main(["render", "--http-host", "0.0.0.0", "--upstream", "controlplane.internal:50051"]) == 0
    config = tmp_path / "envoy.json"
    config.write_text(capsys.readouterr().out)
    check(find_envoy(Settings()), config)
    assert str(DESCRIPTOR_SET.parent) not in config.read_text()


def test_check_says_whether_envoy_accepts_it(tmp_path, capsys):
    assert main(["check", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "OK\n"


def test_a_configuration_that_envoy_does_not_accept_is_refused_in_envoys_words(tmp_path):
    config = tmp_path / "envoy.json"
    config.write_text('{"static_resources": {"listners": []}}')
    with pytest.raises(ConfigRefusedError, match="listners"):
        check(find_envoy(Settings()), config)


@pytest.mark.parametrize(
    "flags",
    [
        ["--http-host", "example.com"],
        ["--http-port", "70000"],
        ["--upstream", "nowhere"],
        ["--admin", "admin.sock"],
        ["--log-level", "loud"],
        ["--envoy", "/nonexistent/envoy"],
        # An address that is not this machine's (TEST-NET-1).
        ["--http-host", "192.0.2.77"],
    ],
)
def test_a_wrong_setting_is_refused_before_anything_starts(tmp_path, capsys, flags):
    assert main(["run", "--data-dir", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.startswith("trainplane-gateway: ")


def test_an_unknown_variable_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("TRAINPLANE_GATEWAY_HTTP_PROT", "1")
    with pytest.raises(ValidationError, match="TRAINPLANE_GATEWAY_HTTP_PROT"):
        Settings()


def test_flags_win_over_the_gateways_variables_which_win_over_the_shared_ones(monkeypatch):
    monkeypatch.setenv("TRAINPLANE_HTTP_PORT", "1001")
    monkeypatch.setenv("TRAINPLANE_GRPC_PORT", "1002")
    assert Settings().http_port == 1001
    assert Settings().control_plane == ("127.0.0.1", 1002)
    monkeypatch.setenv("TRAINPLANE_GATEWAY_HTTP_PORT", "1003")
    assert Settings().http_port == 1003
    assert Settings(http_port=1004, upstream="[::1]:7").http_port == 1004
    assert Settings(upstream="[::1]:7").control_plane == ("::1", 7)


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [
        ({}, ("localhost", "127.0.0.1", "[::1]")),
        ({"http_host": "::1"}, ("localhost", "127.0.0.1", "[::1]")),
        ({"http_host": "0.0.0.0"}, ("*",)),
        ({"allowed_hosts": "a.example,b.example"}, ("a.example", "b.example")),
    ],
)
def test_on_loopback_only_its_own_names_are_served(settings, hosts):
    assert Settings(**settings).hosts == hosts


def test_what_is_no_program_is_not_taken_for_envoy(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(EnvoyMissingError, match="no program"):
            find_envoy(Settings(envoy=path))


async def test_it_listens_on_ipv6_loopback_too(tmp_path):
    async with run_gateway("127.0.0.1:1", data_dir=tmp_path, flags=("--http-host", "::1")) as gateway:
        assert gateway.host == "::1"
        assert (await call(gateway, "GET", "/nope", headers={"host": f"[::1]:{gateway.port}"})).status == 404


def test_a_rule_that_the_gateway_cannot_serve_is_refused_by_name():
    descriptors = public_descriptors(DESCRIPTOR_SET.read_bytes())
    file = next(file for file in descriptors.file if file.name.endswith("/node_service.proto"))
    option = file.service[0].method[0].options
    rule = option.Extensions[next(iter(option.Extensions))]
    rule.body = "one_field"
    with pytest.raises(UnroutableRpcError, match=r"trainplane\.v1\.NodeService/ListNodes"):
        bindings(descriptors)


def test_internal_protos_and_comments_stay_at_home():
    descriptors = public_descriptors(DESCRIPTOR_SET.read_bytes())
    assert not [file.name for file in descriptors.file if "wire" in file.name]
    assert not [file.name for file in descriptors.file if file.HasField("source_code_info")]
    assert "google/rpc/error_details.proto" in {file.name for file in descriptors.file}


@pytest.mark.parametrize(
    ("template", "regex"),
    [("/train", "/train"), ("/train/{job_id}:watch", "/train/[^/:]+:watch"), ("/a.b/{x}/{y}", r"/a\.b/[^/:]+/[^/:]+")],
)
def test_a_template_becomes_a_regular_expression(template, regex):
    assert path_regex(template) == regex


def test_the_configuration_is_the_same_for_the_same_input():
    descriptors = DESCRIPTOR_SET.read_bytes()
    assert envoy_config(Settings(), descriptors) == envoy_config(Settings(), descriptors)


def test_each_reason_that_the_gateway_gives_is_documented_with_its_status():
    documented = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    config = json.loads(render(Settings()))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = [route for host in manager["route_config"]["virtual_hosts"] for route in host["routes"]]
    refused = {
        (route["direct_response"]["status"], route["metadata"]["filter_metadata"]["trainplane"]["reason"])
        for route in routes
        if "direct_response" in route
    }
    assert len(refused) > 5
    for status, reason in refused | {(failure.status, failure.reason) for failure in FAILURES}:
        assert any(f"`{reason}`" in line and str(status) in line for line in documented.splitlines()), reason
