"""The search for leaked secrets finds them, also short-lived ones and ones that are spelled otherwise."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest

from tests.support.eventually import eventually
from tests.support.leaks import Leak, Sampler, spellings

SECRET = "hf_secret_of_a_test"
BRIEFLY = "import time; time.sleep(0.3)"


@pytest.fixture
def sampler(tmp_path):
    (tmp_path / "data").mkdir()
    return Sampler([SECRET], os.getpid(), tmp_path / "data", tmp_path / "scratch")


async def test_where_there_is_no_secret_none_is_found_and_the_decoys_are(sampler):
    with sampler:
        (sampler.directory / "innocent").write_text("hf_secret")
        await eventually(lambda: sampler.samples > 20)
    assert sampler.leaks() == []


@pytest.mark.parametrize("where", ["cmdline", "environ"])
async def test_a_process_that_lives_for_a_moment_is_caught(sampler, where):
    argument, variable = (SECRET, "") if where == "cmdline" else ("", f"Bearer {SECRET}")
    with sampler:
        subprocess.run([sys.executable, "-c", BRIEFLY, argument], env={**os.environ, "X": variable}, check=True)
        await eventually(lambda: sampler.samples > 20)
    (leak,) = {leak.place.partition(" of ")[0] for leak in sampler.leaks()}
    assert leak == where


async def test_a_file_that_is_there_for_a_moment_is_caught(sampler):
    with sampler:
        await eventually(lambda: sampler.samples > 20)
        file = sampler.directory / "deep" / "log"
        file.parent.mkdir()
        file.write_text(f"token={SECRET}\n")
        await eventually(lambda: Leak(SECRET, str(file)) in sampler._found)
        file.unlink()
    assert sampler.leaks() == [Leak(SECRET, str(file))]


@pytest.mark.parametrize("before", range(4))
def test_it_is_known_in_other_spellings(sampler, before):
    raw = bytes(range(before)) + SECRET.encode() + b"and more"
    for spelled in (raw, base64.b64encode(raw), raw.hex().encode(), b"q" + SECRET.encode("utf-16-le")):
        assert any(pattern in spelled for pattern in spellings(SECRET))


async def test_a_search_that_overlooked_its_decoy_is_worth_nothing(sampler):
    with sampler:
        await eventually(lambda: sampler.samples > 20)
    sampler._found = {leak for leak in sampler._found if not leak.place.startswith("environ")}
    with pytest.raises(AssertionError, match="the decoys found"):
        sampler.leaks()
