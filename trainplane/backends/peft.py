"""The engine of real training: transformers and PEFT, in `agent.trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainplane.backends import peft_config, peft_estimate

if TYPE_CHECKING:
    from trainplane.backends.backend import Finding
    from trainplane.backends.disk import Written
    from trainplane.backends.estimate import Estimate


class Peft:
    """Fine-tunes causal language models; everything that it can be told has a field of its own in the spec."""

    name = "peft"
    description = "Fine-tunes causal language models with adapters, by transformers and PEFT."
    several_nodes = True

    def schema(self) -> dict[str, Any]:
        """No options."""
        return {"type": "object", "additionalProperties": False, "maxProperties": 0}

    def validate(self, effective_spec: dict[str, Any]) -> list[Finding]:
        """Refuse any option, for there are none, and what `customization.peft.config` may not hold."""
        return [
            *(
                (f"backend_options.{key[:60]}", "UNKNOWN_FIELD", "backend peft has no options of its own")
                for key in effective_spec.get("backend_options", {})
            ),
            *peft_config.problems(effective_spec.get("customization", {})),
        ]

    def estimate(
        self, effective_spec: dict[str, Any], seen: dict[str, Any], *, on_gpu: bool, tokens_per_second: float
    ) -> Estimate:
        """What a training takes, as far as it is known."""
        return peft_estimate.estimate(effective_spec, seen, on_gpu=on_gpu, tokens_per_second=tokens_per_second)

    def least_device_bytes(self, effective_spec: dict[str, Any], seen: dict[str, Any]) -> float:
        """The memory without which no training begins on a GPU; 0: not known."""
        return peft_estimate.least_device_bytes(effective_spec, seen)

    def least_disk(self, effective_spec: dict[str, Any], seen: dict[str, Any]) -> Written | None:
        """What its trainer writes to the node's disk at least; None: not known."""
        return peft_estimate.least_disk(effective_spec, seen)

    def command(self, python: str, attempt_dir: str) -> list[str]:
        """Start the trainer's package; it reads `assignment.json` in the directory."""
        return [python, "-m", "agent.trainer", attempt_dir]


PEFT = Peft()
