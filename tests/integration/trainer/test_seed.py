"""The users' own request as its four ranks get it: the golden effective spec, with the model and the rows fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.trainer.attempts import Attempt
    from tests.integration.trainer.process import Process

EFFECTIVE = Path(__file__).parents[2] / "golden" / "spec" / "seed_effective.json"
ROWS = [{"prompt": f"What is {n}? ", "completion": f"It is {n}." + " Yes, it is." * (n % 5)} for n in range(200)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
DEADLINE_SECONDS = 160.0


def test_the_seed_is_trained_by_four_ranks_as_each_of_its_fields_says(
    attempt: Attempt, start: Callable[[str, Path], Process]
):
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    attempt.dataset(ROWS)
    spec: dict[str, Any] = json.loads(EFFECTIVE.read_text())
    document = {"uid": "01JSEED", "job_id": spec["job_id"], "attempt": 1, "devices": [], "world_size": 4, "spec": spec}
    (attempt.directory / "assignment.json").write_text(json.dumps({**document, "deadline_seconds": 43200.0}))
    attempt.fetched(name="meta-llama/Llama-2-7b", commit=COMMIT, datasets=[attempt.directory / "rows.jsonl"])
    process = start("agent.trainer", attempt.directory)
    assert process.wait(DEADLINE_SECONDS) == 0, (process.lines[-1], process.log)

    weights = load_file(attempt.output / "adapter_model.safetensors")
    adapted = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in weights}
    assert adapted == {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"}
    assert {tensor.shape[0] for name, tensor in weights.items() if "lora_A" in name} == {16}
    assert all(tensor.abs().max() > 0 for tensor in weights.values())
    config = json.loads((attempt.output / "adapter_config.json").read_text())
    said = {name: config[name] for name in ("r", "lora_alpha", "lora_dropout", "base_model_name_or_path")}
    assert said == {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "base_model_name_or_path": "meta-llama/Llama-2-7b"}

    facts = attempt.provenance
    training = facts["training"]
    assert (training["precision"], training["world_size"], training["effective_batch_size"]) == ("bf16", 4, 64)
    assert (training["steps"], training["warmup_steps"], training["epochs"]) == (12, 2, 3.0)
    assert training["gradient_checkpointing"] is True
    rates = [rate for report in attempt.said("metrics") for rate in report["series"]["learning_rate"]]
    assert rates[:2] == [1e-4, 2e-4]
    assert max(rates) == training["peak_learning_rate"] == 2e-4
    numbers = [number for rank in facts["ranks"] for number in rank["first_epoch"]["numbers"]]
    assert sorted(numbers) == list(range(len(ROWS)))
    assert {rank["first_epoch"]["examples"] for rank in facts["ranks"]} == {50}
    assert facts["base_model"]["commit"] == COMMIT

    base = AutoModelForCausalLM.from_pretrained(attempt.model)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.inference_mode():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, attempt.output).eval()(ids).logits
    assert not torch.equal(before, after)
