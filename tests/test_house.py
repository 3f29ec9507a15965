"""The house's own rules: sizes, names, and that nothing is forgotten."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from controlplane.domain import errors as domain_errors
from controlplane.domain.event import EventType
from controlplane.rpc.errors import CODES
from trainplane.v1 import backend_service_pb2, job_service_pb2, node_service_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

ROOT = Path(__file__).parents[1]
PACKAGES = ("trainplane", "controlplane", "agent", "gateway")
SOURCES = sorted(
    path
    for package in (*PACKAGES, "bench", "tests")
    for path in (ROOT / package).rglob("*.py")
    if "_pb2" not in path.name and "versions" not in path.parts
)
OURS = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
BANNED = {"utils", "util", "helpers", "common", "manager", "handler", "handlers", "base", "impl", "misc"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_module_passes_the_wall_of_500_lines(path):
    assert len(path.read_text().splitlines()) <= 500


def test_no_module_has_a_name_that_says_nothing():
    assert [relative(path) for path in OURS if path.stem in BANNED or path.parent.name in BANNED] == []


def test_every_module_says_what_it_is_for():
    silent = [relative(p) for p in OURS if p.stat().st_size and ast.get_docstring(ast.parse(p.read_text())) is None]
    assert silent == []


def test_mocks_are_not_used():
    mocking = re.compile(r"unittest\.mock|MagicMock|monkeypatch\.setattr|mocker\.")
    found = [relative(p) for p in SOURCES if p != Path(__file__) and mocking.search(p.read_text())]
    assert found == []


def test_catching_everything_stands_only_where_it_must():
    """The loop guard and the request guard, the RPC guard, the trainer's verdict."""
    allowed = {"controlplane/rpc/errors.py", "controlplane/bus/server.py", "agent/trainer/verdict.py"}
    allowed |= {"trainplane/backends/third_party.py"}
    catching = re.compile(r"except (Exception|BaseException)\b")
    found = {relative(path) for path in OURS if catching.search(path.read_text())}
    reraising = {
        relative(p) for p in OURS if re.search(r"except BaseException[^\n]*\n(?:.*\n){0,6}?\s+raise\b", p.read_text())
    }
    assert found - reraising - allowed == set()


def test_the_control_plane_starts_no_process_by_its_event_loop():
    """uvloop's children are forked beside gRPC's threads, and now and then die before they are another program."""
    forking = re.compile(r"create_subprocess|subprocess_(exec|shell)|os\.fork\b|import multiprocessing")
    found = [relative(p) for p in OURS if relative(p).startswith("controlplane/") and forking.search(p.read_text())]
    assert found == []


def subclasses(of: type) -> set[type]:
    return {of, *(deeper for kind in of.__subclasses__() for deeper in subclasses(kind))}


def test_every_domain_error_has_a_grpc_code():
    assert subclasses(domain_errors.DomainError) - {domain_errors.DomainError} == set(CODES)


def methods(file: FileDescriptor) -> list:
    return [method for service in file.services_by_name.values() for method in service.methods]


def test_every_rpc_has_an_http_route_or_is_known_to_have_none():
    from google.api import annotations_pb2

    without = {
        method.full_name
        for file in (job_service_pb2.DESCRIPTOR, node_service_pb2.DESCRIPTOR, backend_service_pb2.DESCRIPTOR)
        for method in methods(file)
        if not method.GetOptions().HasExtension(annotations_pb2.http)
    }
    assert without == {f"trainplane.v1.JobService.{name}" for name in ("CreateJob", "WatchJob", "WatchJobLogs")}


def test_public_messages_have_no_64_bit_integers_which_json_prints_as_strings():
    wide = [
        field.full_name
        for path in sorted((ROOT / "trainplane/v1").glob("*_pb2.py"))
        for message in __import__(
            f"trainplane.v1.{path.stem}", fromlist=["x"]
        ).DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
        if field.cpp_type in {field.CPPTYPE_INT64, field.CPPTYPE_UINT64}
    ]
    assert wide == []


def test_every_event_type_is_documented():
    text = (ROOT / "docs" / "api.md").read_text()
    assert [kind.value for kind in EventType if f"`{kind.value}`" not in text] == []


def test_every_setting_says_what_it_does():
    from agent.settings import Settings as Agent
    from controlplane.settings import Settings as ControlPlane
    from gateway.settings import Settings as Gateway

    undocumented = [
        f"{settings.__module__}.{name}"
        for settings in (Agent, ControlPlane, Gateway)
        for name, field in settings.model_fields.items()
        if not field.description
    ]
    assert undocumented == []


def test_nothing_committed_names_this_machine():
    forbidden = re.compile("|".join(["/wor" + "k/", "farm-" + "(studio|bench)", r"\.libr" + "ary/"]))
    text = [
        p for folder in (*PACKAGES, "bench", "tests", "docs", "proto", "examples") for p in (ROOT / folder).rglob("*")
    ]
    named = [
        relative(p)
        for p in [*text, ROOT / "README.md", ROOT / "Makefile"]
        if p.suffix in {".py", ".md", ".json", ".yaml", ".proto", ".sh", ".toml"} and forbidden.search(p.read_text())
    ]
    assert named == []
