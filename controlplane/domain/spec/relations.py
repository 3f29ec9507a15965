"""What is judged between fields: contradictions, values whose meaning depends on another, and what has no effect.

Each row names the fields that it looks at, the one to blame first; it is skipped if one of them has a violation of its
own, so that one mistake is told once. Rows see the effective spec, and what was sent where absence matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from controlplane.domain.errors import Violation
from controlplane.domain.spec import locations, problem
from controlplane.domain.spec.shapes import HUB_REPOSITORY
from trainplane import backends
from trainplane.backends import peft_config, sharding
from trainplane.backends.peft_methods import METHODS, PLACES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from controlplane.domain.spec.findings import Findings
    from controlplane.domain.spec.rules import Rules


@dataclass(frozen=True, slots=True)
class Seen:
    """A spec under judgement: as sent, with defaults, the paths of its secrets, and the platform's rules."""

    sent: dict[str, Any]
    effective: dict[str, Any]
    secrets: dict[str, str]
    rules: Rules

    def given(self, block: str, name: str) -> Any:
        """What was sent for a field, or None."""
        return self.sent.get(block, {}).get(name)


@dataclass(frozen=True, slots=True)
class Relation:
    """One rule between fields: `says` tells what is wrong with the first of them, or nothing."""

    fields: tuple[str, ...]
    reason: str
    says: Callable[[Seen], str | None]


def judge(seen: Seen, findings: Findings) -> tuple[Violation, ...]:
    """Add every contradiction to the findings, and return the warnings."""
    spoiled = findings.spoiled()
    sound = [each for each in _RELATIONS if spoiled.isdisjoint(each.fields)] if spoiled else _RELATIONS
    for relation in sound:
        description = relation.says(seen)
        if description is not None:
            findings.add(relation.fields[0], relation.reason, description)
    for violation in (*_peft_config(seen, spoiled), *_places(seen)):
        if violation.field not in spoiled:
            findings.violations.append(violation)
    told = [(field, description) for field, says in _NO_EFFECT if (description := says(seen))]
    if _is_local_only(seen):
        told.append(("artifacts.auth", "file:// locations are written as the agent, so this does nothing"))
    told += [
        (f"datasets[{index}].auth", "only s3:// sources are read with a role, so this does nothing")
        for index, dataset in enumerate(seen.sent.get("datasets", ()))
        if "auth" in dataset and not dataset.get("source", "s3://").startswith("s3://")
    ]
    told += [
        (f"datasets[{index}].weight", "a dataset of split `eval` is evaluated as it is, so this does nothing")
        for index, dataset in enumerate(seen.sent.get("datasets", ()))
        if "weight" in dataset and dataset.get("split") == "eval"
    ]
    return tuple(Violation(field, problem.NO_EFFECT, description) for field, description in told)


def _model_name(seen: Seen) -> str | None:
    model = seen.effective["base_model"]
    name = model.get("model_name")
    if model["provider"] != "huggingface" or name is None or HUB_REPOSITORY.problem(name, seen.rules) is None:
        return None
    return (
        "must be `owner/name` on the hub, each part up to 96 of A-Z a-z 0-9 . _ -; a directory needs provider `local`"
    )


def _weights_of_s3(seen: Seen) -> str | None:
    model = seen.effective["base_model"]
    if model["provider"] != "s3" or "weights_url" not in model:
        return None
    return "with provider `s3` the model's directory holds its weights, too: leave it out"


def _output_absent(seen: Seen) -> str | None:
    if "output_uri" in seen.effective["artifacts"]:
        return None
    return "is required: this platform has no default output location; give file:///…/ or s3://bucket/prefix/"


def _adapter_off(seen: Seen) -> str | None:
    method = seen.effective["customization"].get("method")
    use = (seen.given("customization", "peft") or {}).get("use")
    if method is None or use is None or use == (method != "full"):
        return None
    if use:
        return "method `full` trains no adapter: leave it out or say false"
    return f"method `{method}` trains an adapter: false goes with method `full` only"


def _not_of_method(name: str) -> Relation:
    def says(seen: Seen) -> str | None:
        word = seen.effective["customization"].get("method")
        method = METHODS.get(word)
        if method is None or name in method.places or seen.given("customization", name) is None:
            return None
        return f"method `{word}` {method.lacks}: leave it out"

    return Relation((f"customization.{name}", "customization.method"), problem.CONTRADICTION, says)


def _linear_norms(seen: Seen) -> str | None:
    custom = seen.effective["customization"]
    if custom.get("method") != "layernorm" or "all-linear" not in (seen.given("customization", "target_modules") or ()):
        return None
    return "method `layernorm` trains norms, which `all-linear` leaves out: name norms, or leave it out for all of them"


def _config_of_full(seen: Seen) -> str | None:
    if seen.effective["customization"].get("method") != "full":
        return None
    given = (seen.given("customization", "peft") or {}).get("config", {})
    return "method `full` trains no adapter, so PEFT has nothing to configure: leave it out" if given else None


def _recomputed_prefix(seen: Seen) -> str | None:
    tuning = seen.effective["tuning_parameters"]
    if seen.effective["customization"].get("method") != "prefix_tuning" or not tuning["gradient_checkpointing"]:
        return None
    return "method `prefix_tuning` works by the attention's cache, which a block that is computed anew does not have"


def _packed_prompt(seen: Seen) -> str | None:
    method = seen.effective["customization"].get("method")
    if not seen.effective["tuning_parameters"]["packing"] or method not in METHODS or not METHODS[method].prompt:
        return None
    return f"method `{method}` puts its prompt before a row once, and a packed row holds several examples"


def _batch(seen: Seen) -> str | None:
    gpus, batch = seen.effective["resources"]["gpus"], seen.effective["tuning_parameters"]["batch_size"]
    if gpus < 2 or batch % gpus == 0:
        return None
    said = "" if seen.given("tuning_parameters", "batch_size") else " (the default)"
    return f"counts examples over all devices, so must be a multiple of the {gpus} GPUs, got {batch}{said}"


def _sharded_alone(seen: Seen) -> str | None:
    gpus = seen.effective["resources"]["gpus"]
    if seen.given("tuning_parameters", "sharding") != "full" or gpus > 1:
        return None
    return f"a model is sharded over the job's GPUs, and resources.gpus is {gpus}: ask for 2 or more, or leave it out"


def _unsharded(seen: Seen) -> str | None:
    if seen.given("tuning_parameters", "sharding") != "full":
        return None
    return sharding.problem(seen.effective["customization"]) or None


def _export_of_prompt(name: str) -> Relation:
    def says(seen: Seen) -> str | None:
        method = seen.effective["customization"].get("method")
        if not seen.effective["export"].get(name) or method not in METHODS or not METHODS[method].prompt:
            return None
        return f"method `{method}` trains a prompt, and no weights that could be merged: leave it out"

    return Relation((f"export.{name}", "export", "customization.method"), problem.CONTRADICTION, says)


def _push_without_token(seen: Seen) -> str | None:
    if "push_to_hub" not in seen.effective["export"] or "base_model.auth_token" in seen.secrets:
        return None
    return "is pushed to with the job's own token only: give base_model.auth_token, one that may write there"


def _merged_whole(seen: Seen) -> str | None:
    if seen.effective["customization"].get("method") != "full" or not seen.effective["export"]["merged"]:
        return None
    return "method `full` publishes the whole model already: leave it out"


def _half_on_cpu(seen: Seen) -> str | None:
    if seen.effective["customization"]["precision"] != "fp16" or seen.effective["resources"]["gpus"]:
        return None
    return "a CPU does not train in fp16, whose range needs a GPU's loss scaling: ask for a GPU, or for bf16 or fp32"


def _nothing_to_train_on(seen: Seen) -> str | None:
    datasets = seen.effective["datasets"]
    if datasets and all(dataset.get("split") == "eval" for dataset in datasets):
        return "must hold one with split `train`"
    return None


def _evaluated_twice(seen: Seen) -> str | None:
    if "eval_fraction" not in seen.effective["tuning_parameters"]:
        return None
    for index, dataset in enumerate(seen.effective["datasets"]):
        if dataset.get("split") == "eval":
            return f"datasets[{index}] is evaluated on already: leave this out, or that"
    return None


def backend_names(rules: Rules) -> tuple[str, ...]:
    """The engines that a spec may choose."""
    return tuple(name for name in backends.names() if name != "mock" or rules.dev_mode)


def _backend(seen: Seen) -> str | None:
    name = seen.effective["backend"]
    if backends.find(name) is not None:
        return None
    known = backend_names(seen.rules)
    near = get_close_matches(name[:64].lower(), known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"must be one of {', '.join(known)}, got {problem.shown(name)}{meant}"


def _mock(seen: Seen) -> str | None:
    if seen.effective["backend"] == "mock" and not seen.rules.dev_mode:
        return "the fake trainer is for dev mode only (`trainplane up --dev`); leave `backend` out to train"
    return None


_RELATIONS = (
    Relation(("base_model.model_name", "base_model.provider", "base_model"), problem.MALFORMED, _model_name),
    Relation(("base_model.weights_url", "base_model.provider", "base_model"), problem.CONTRADICTION, _weights_of_s3),
    Relation(("artifacts.output_uri", "artifacts"), problem.REQUIRED, _output_absent),
    Relation(("backend",), problem.UNKNOWN_VALUE, _backend),
    Relation(("backend",), problem.NOT_ALLOWED, _mock),
    Relation(("datasets",), problem.CONTRADICTION, _nothing_to_train_on),
    Relation(("customization.peft.use", "customization.peft"), problem.CONTRADICTION, _adapter_off),
    Relation(
        ("tuning_parameters.eval_fraction", "tuning_parameters", "datasets"), problem.CONTRADICTION, _evaluated_twice
    ),
    *(_not_of_method(name) for name in PLACES),
    Relation(("customization.target_modules", "customization.method"), problem.CONTRADICTION, _linear_norms),
    Relation(
        ("customization.peft.config", "customization.peft", "customization.method"),
        problem.CONTRADICTION,
        _config_of_full,
    ),
    Relation(
        ("tuning_parameters.gradient_checkpointing", "tuning_parameters", "customization.method"),
        problem.CONTRADICTION,
        _recomputed_prefix,
    ),
    Relation(
        ("tuning_parameters.packing", "tuning_parameters", "customization.method"),
        problem.CONTRADICTION,
        _packed_prompt,
    ),
    Relation(
        ("tuning_parameters.batch_size", "tuning_parameters", "resources.gpus", "resources"),
        problem.CONTRADICTION,
        _batch,
    ),
    Relation(
        ("tuning_parameters.sharding", "tuning_parameters", "resources.gpus", "resources"),
        problem.CONTRADICTION,
        _sharded_alone,
    ),
    Relation(
        ("tuning_parameters.sharding", "tuning_parameters", "customization.method", "customization.precision"),
        problem.NOT_YET_SUPPORTED,
        _unsharded,
    ),
    Relation(
        ("customization.precision", "customization", "resources.gpus", "resources"), problem.CONTRADICTION, _half_on_cpu
    ),
    Relation(
        ("export.push_to_hub", "export", "base_model.auth_token", "base_model"),
        problem.CONTRADICTION,
        _push_without_token,
    ),
    _export_of_prompt("merged"),
    _export_of_prompt("gguf"),
    Relation(("export.merged", "export", "customization.method"), problem.CONTRADICTION, _merged_whole),
)


def _is_local_only(seen: Seen) -> bool:
    artifacts = seen.sent.get("artifacts", {})
    places = [seen.effective["artifacts"].get(name, "file://") for name in ("log_uri", "output_uri")]
    return "auth" in artifacts and all(place.startswith("file://") for place in places)


def _peft_config(seen: Seen, spoiled: frozenset[str]) -> Iterator[Violation]:
    """Of PEFT's fields those that have their own place here; the others are the backend's to judge."""
    custom = seen.effective["customization"]
    path = "customization.peft.config"
    if custom.get("method") == "full":
        return
    for key, value in (seen.given("customization", "peft") or {}).get("config", {}).items():
        at = f"{path}.{problem.step(key)}"
        if key == "task_type":
            if value != "CAUSAL_LM":
                yield Violation(at, problem.CONTRADICTION, "must be CAUSAL_LM: that is what is trained here")
            continue
        own = peft_config.own_place(custom, key)
        if own is None or f"customization.{own}" in spoiled or peft_config.agrees(custom, key, value):
            continue
        yield Violation(at, problem.CONTRADICTION, f"must agree with customization.{own}; better leave it out")


def _places(seen: Seen) -> Iterator[Violation]:
    """Where places must not coincide: results among the inputs, results among the logs."""
    artifacts, model = seen.effective["artifacts"], seen.effective["base_model"]
    output, logs = artifacts.get("output_uri"), artifacts.get("log_uri")
    name = model.get("model_name", "")
    weights = url if (url := model.get("weights_url", "")).startswith("s3://") else ""
    if model["provider"] == "local" and name:
        wrong = locations.local_path_problem(name, seen.rules)
        if wrong:
            yield Violation("base_model.model_name", *wrong)
            name = ""
    if model["provider"] == "s3" and name and (wrong := locations.prefix_problem(name, seen.rules)):
        yield Violation("base_model.model_name", *wrong)
        name = ""
    if output is None:
        return
    if logs is not None and locations.normal(logs) == locations.normal(output):
        yield Violation("artifacts.log_uri", problem.CONTRADICTION, "must not be artifacts.output_uri itself")
    for field, place in (("model_name", name if model["provider"] != "huggingface" else ""), ("weights_url", weights)):
        if place and locations.within(output, place):
            yield _inside(f"base_model.{field}")
    for index, dataset in enumerate(seen.effective["datasets"]):
        if "source" in dataset and locations.within(output, dataset["source"]):
            yield _inside(f"datasets[{index}].source")
            return


def _inside(other: str) -> Violation:
    return Violation(
        "artifacts.output_uri", problem.CONTRADICTION, f"must not lie inside {other}: it would change the input"
    )


def _no_qlora(seen: Seen) -> str | None:
    method = seen.effective["customization"].get("method")
    if method == "qlora" or not seen.given("customization", "qlora"):
        return None
    return f"only method `qlora` quantizes the base model; with `{method}` this block does nothing"


def _no_gpu(seen: Seen) -> str | None:
    if seen.effective["resources"]["gpus"] == 0 and seen.given("resources", "gpu_type"):
        return "no GPU is asked for (resources.gpus), so its type does nothing"
    return None


def _no_gguf(seen: Seen) -> str | None:
    if not seen.given("export", "gguf_type") or seen.effective["export"]["gguf"]:
        return None
    return "no GGUF file is asked for (export.gguf), so its type does nothing"


def _local_model(name: str) -> Callable[[Seen], str | None]:
    def says(seen: Seen) -> str | None:
        given = seen.given("base_model", name) or f"base_model.{name}" in seen.secrets
        if name == "auth_token" and "push_to_hub" in seen.effective["export"]:
            return None  # it is for the push
        if given and (provider := seen.effective["base_model"]["provider"]) in {"local", "s3"}:
            return f"a model of provider `{provider}` is read as it is, so this does nothing"
        return None

    return says


def _no_webhook(name: str) -> Callable[[Seen], str | None]:
    def says(seen: Seen) -> str | None:
        given = seen.given("callbacks", name) or f"callbacks.{name}" in seen.secrets
        return "no callbacks.webhook_url is given, so this does nothing" if given and not _called(seen) else None

    return says


def _called(seen: Seen) -> bool:
    return "webhook_url" in seen.effective.get("callbacks", {})


_NO_EFFECT: tuple[tuple[str, Callable[[Seen], str | None]], ...] = (
    ("base_model.revision", _local_model("revision")),
    ("base_model.auth_token", _local_model("auth_token")),
    ("customization.qlora", _no_qlora),
    ("resources.gpu_type", _no_gpu),
    ("export.gguf_type", _no_gguf),
    ("callbacks.auth_header", _no_webhook("auth_header")),
    ("callbacks.events", _no_webhook("events")),
)
