from __future__ import annotations

import json

import pytest

from tests.unit.demo.test_request import PLACES
from trainplane.demo import precision, request


@pytest.mark.parametrize(
    ("cpuinfo", "chosen"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n", "bf16"),
        ("processor : 0\nflags\t\t: fpu amx_bf16\n", "bf16"),
        ("processor : 0\nFeatures\t: fp asimd bf16\n", "bf16"),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f\n", "fp32"),
        ("processor : 0\nmodel name : avx512_bf16\n", "fp32"),
        ("", "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it(tmp_path, cpuinfo, chosen):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert precision.fastest(tmp_path / "cpuinfo") == chosen


def test_without_a_list_of_flags_it_is_fp32(tmp_path):
    assert precision.fastest(tmp_path / "none") == "fp32"


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_the_request_asks_for_it(chosen):
    assert request.build(PLACES, fastest=chosen)["customization"]["precision"] == chosen


def test_the_request_asks_for_this_machines():
    assert request.build(PLACES)["customization"]["precision"] == precision.fastest()


def test_the_committed_request_asks_for_one_that_the_api_knows():
    assert json.loads(request.REQUEST_FILE.read_text())["customization"]["precision"] in {"bf16", "fp32"}
