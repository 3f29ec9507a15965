"""One attempt from its assignment to its output, top to bottom; what costs nothing is checked first."""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import platform
import shutil
import signal
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainplane_bare import plan as plans
from trainplane_bare import rows
from trainplane_bare.failure import Failure, described
from trainplane_bare.model_files import FIELD, inspect
from trainplane_bare.redaction import without_keys
from trainplane_bare.reports import FAILED_STATUS, Reports

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainplane_bare.loop import Loop
    from trainplane_bare.lora import Lora
    from trainplane_bare.model_files import ModelFiles
    from trainplane_bare.plan import Plan
    from trainplane_bare.rows import Dataset, Example

log = logging.getLogger("bare")


def run(attempt_directory: str, *, alone: bool = True) -> int:
    """Train, and turn whatever happens into a terminal report. Returns the exit status.

    Args:
        attempt_directory: the attempt's.
        alone: whether the process is the attempt's own, and may be ended by SIGTERM and at the deadline.
    """
    faulthandler.register(signal.SIGUSR1)  # the agent asks for the stacks of a trainer that makes no progress
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    reports = Reports(attempt_directory)
    try:
        plan = plans.read(Path(attempt_directory))
        if alone:
            reports.watch(plan.deadline_seconds, plan.grace_seconds)
        ended_at = _train(plan, Path(attempt_directory), reports)
        if ended_at:
            return reports.end(ended_at)
    except Exception as error:
        reason, message = described(error)
        log.exception("failed reason=%s", reason)
        reports.failed(reason, message)
        return FAILED_STATUS
    reports.append("finished")
    return 0


def _train(plan: Plan, directory: Path, reports: Reports) -> int:
    """The step after which it was asked to end early; 0: it went to its end."""
    # Before torch is imported: it reads them once.
    os.environ |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(plan.devices)}
    reports.phase("FETCHING_MODEL")
    files = inspect(plan.model_path, plan.model_name)
    reports.phase("PREPARING_DATA")
    datasets = [rows.read(source) for source in plan.sources]
    examples = _examples(plan, files, datasets, reports)

    from trainplane_bare import checkpoint
    from trainplane_bare.loop import Loop, Meter, wish
    from trainplane_bare.lora import adapt

    model = _model(plan, files)
    adapters = adapt(model, plan)
    loop = Loop(plan, model, adapters, examples, pulse=reports.beat)
    identity = _identity(plan, examples)
    roots = [directory / "checkpoints", *([Path(plan.resume_from)] if plan.resume_from else [])]

    def passed_over(path: Path, why: str) -> None:
        reports.warning("CHECKPOINT_UNUSABLE", f"the checkpoint of step {path.name} is passed over: {why}")

    def saved(facts: dict[str, Any]) -> None:
        meter.plot()
        reports.append("checkpoint", **facts)

    found = next(checkpoint.usable(roots, identity, passed_over), None)
    if found is not None:
        loop.resume(found)
    reports.phase("TRAINING", "" if found is None else f"goes on from the checkpoint of step {found.step}")
    log.info("examples=%d steps=%d adapters=%d device=%s", len(examples), loop.total_steps, len(adapters), loop.device)
    meter = Meter(reports, loop, plan.steps_per_epoch(len(examples)))
    reports.heeding = True
    whole = loop.run(meter.on_step, wish(plan), saved, roots[0], identity, asked=lambda: reports.asked)
    reports.heeding = False
    if not whole:
        return len(loop.losses)
    _write(
        directory / "output",
        adapters,
        plan,
        _provenance(plan, files, datasets, loop, 0 if found is None else found.step),
    )
    return 0


def _examples(plan: Plan, files: ModelFiles, datasets: Sequence[Dataset], reports: Reports) -> list[Example]:
    from tokenizers import Tokenizer

    longest = min(plan.tuning.get("max_sequence_length", 2048), files.config.get("max_position_embeddings", 2**31))
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return rows.tokenize(datasets, tokenizer, end=files.end, longest=longest, reports=reports)


def _model(plan: Plan, files: ModelFiles) -> Any:
    import torch

    from trainplane_bare.llama import load

    if plan.devices and not torch.cuda.is_available():
        raise Failure("CONFIG_INVALID", "resources.gpus: torch finds no device here; install a CUDA build of it")
    device = torch.device("cuda:0" if plan.devices else "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[plan.precision]
    model = load(files, dtype=dtype, device=device, recompute=plan.tuning.get("gradient_checkpointing", False))
    highest = model.model.embed_tokens.num_embeddings - 1
    if (files.end or 0) > highest:
        raise Failure("MODEL_FORMAT_UNSUPPORTED", f"{FIELD}: eos_token_id {files.end} is beyond the vocabulary")
    torch.manual_seed(plan.tuning.get("seed", 0))
    return model


def _identity(plan: Plan, examples: Sequence[Example]) -> str:
    """Of which training a checkpoint is: the job's, of these tokens in this order."""
    digest = sha256(plan.uid.encode())
    for example in examples:
        digest.update(json.dumps([example.ids, example.targets]).encode())
    return digest.hexdigest()


def _provenance(
    plan: Plan, files: ModelFiles, datasets: Sequence[Dataset], loop: Loop, resumed_from: int
) -> dict[str, Any]:
    import safetensors
    import tokenizers
    import torch

    libraries = {module.__name__: module.__version__ for module in (torch, safetensors, tokenizers)}
    return {
        "format_version": 1,
        "backend": "bare",
        "spec": without_keys(plan.spec),
        "base_model": {"name": plan.model_name, "commit": plan.model_commit, "sha256": files.digests()},
        "datasets": [
            {"source": each.source.called, "rows": len(each.rows), "sha256": each.sha256} for each in datasets
        ],
        "training": {"steps": loop.total_steps, "examples": len(loop.examples), "resumed_from": resumed_from},
        "losses": loop.losses,
        "versions": {"python": platform.python_version(), **libraries},
        "device": torch.cuda.get_device_name() if loop.device.type == "cuda" else platform.machine(),
    }


def _write(output: Path, adapters: dict[str, Lora], plan: Plan, facts: dict[str, Any]) -> None:
    """The whole output, fsynced."""
    from trainplane_bare import lora
    from trainplane_bare.checkpoint import sync

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    lora.save(output, adapters, plan)
    (output / "provenance.json").write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (output / "README.md").write_text(
        f"---\nbase_model: {plan.model_name}\nlibrary_name: peft\n---\n\nA LoRA adapter of rank {plan.rank} for "
        f"`{plan.model_name}`, trained by trainplane's backend `bare`; `provenance.json` says from what and how.\n",
        encoding="utf-8",
    )
    for path in (*output.iterdir(), output, output.parent):
        sync(path)
