"""Which HTTP method and path reach which RPC: people rely on it, so a change must show in review."""

from __future__ import annotations

from pathlib import Path

from gateway.descriptors import DESCRIPTOR_SET, bindings, public_descriptors
from tests.support.golden import as_committed

GOLDEN = Path(__file__).with_name("routes.txt")


def test_the_routes_are_those_of_the_golden_file():
    table = [
        f"{binding.method:6} {binding.template:32} {binding.rpc:44}"
        f" {'stream' if binding.streams else 'unary':6} body={'raw' if binding.raw_body else 'json' if binding.has_body else 'none'}"
        f" query={','.join(binding.query_parameters) or '-'}"
        for binding in bindings(public_descriptors(DESCRIPTOR_SET.read_bytes()))
    ]
    as_committed(GOLDEN, "".join(f"{line}\n" for line in table))
