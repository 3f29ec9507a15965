"""The spec as it will be run: what was sent, with every default filled in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from controlplane.domain.spec.field import Field, Kind
from controlplane.domain.spec.fields import DEFAULT_EVENTS, FIELDS
from trainplane.backends import peft_config
from trainplane.backends.peft_methods import METHODS, PLACES

if TYPE_CHECKING:
    from controlplane.domain.spec.rules import Rules

#: The suffixes of sources whose format is not said; it is `jsonl` with any other.
_FORMATS = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text", ".md": "text"}

_Fill = Callable[[dict[str, Any]], dict[str, Any]]


def effective(sent: dict[str, Any], *, job_id: str | None, rules: Rules) -> dict[str, Any]:
    """Fill in every default; what has no effect on this job is left out, and so is a block without content.

    Shares no mutable value with `sent`. Applied to its own result, it changes nothing.

    Args:
        sent: as the structure's checker returned it; what was wrong is absent from it.
        job_id: ends the default locations; None leaves a placeholder there.
        rules: the platform's own defaults.
    """
    spec = _fill(sent)
    if job_id is not None:
        spec = {"job_id": job_id} | spec
    model, custom, artifacts, calls = (
        spec["base_model"],
        spec["customization"],
        spec["artifacts"],
        spec.get("callbacks", {}),
    )
    if model["provider"] == "huggingface":
        model.setdefault("revision", "main")
    _fill_method(custom, sent.get("customization", {}))
    for dataset in spec["datasets"]:
        _fill_dataset(dataset)
    if custom.get("method") != "qlora":
        del custom["qlora"]
    for name, prefix in (("log_uri", rules.default_log_uri), ("output_uri", rules.default_output_uri)):
        place = artifacts.get(name) or (prefix and f"{prefix.rstrip('/')}/{job_id or '<job_id>'}/")
        if place:
            artifacts[name] = place if place[-1] == "/" else place + "/"
    if all(artifacts.get(name, "file://").startswith("file://") for name in ("log_uri", "output_uri")):
        artifacts.pop("auth", None)
    if "webhook_url" in calls:
        calls.setdefault("events", list(DEFAULT_EVENTS))
    return spec


def _fill_dataset(dataset: dict[str, Any]) -> None:
    source = dataset.get("source", "")
    if source and not source.startswith("s3://"):
        dataset.pop("auth", None)
    if source and not source.startswith("hf:"):  # what files a repository has, only a look at it tells
        dataset.setdefault("format", _format_of(source))


def _format_of(source: str) -> str:
    """How a source is written whose format is not said."""
    name = source.partition("?")[0].rpartition("/")[2]
    return _FORMATS.get(name[name.rfind(".") :].lower(), "jsonl")


def _fill_method(custom: dict[str, Any], sent: dict[str, Any]) -> None:
    """What the method makes of the block: fields that it does not have are left out, and PEFT's stand in one place."""
    method = METHODS.get(custom.get("method", "lora"), METHODS["lora"])
    custom.setdefault("lora_alpha", 2 * custom["rank"])
    for place in PLACES:
        if place not in method.places or (place == "target_modules" and method.trains_base and place not in sent):
            custom.pop(place, None)
    if method.peft_type:
        custom["peft"]["config"] = {"task_type": "CAUSAL_LM", **peft_config.further(custom)}
    else:
        custom["peft"] = {"use": False}


def _filler(fields: tuple[Field, ...]) -> _Fill:
    """How an object is filled: one merge for the plain values, then whatever must be filled or copied in turn."""
    plain = {field.name: field.default for field in fields if _is_plain(field) and field.default is not None}
    deeper = tuple((field.name, _deeper(field)) for field in fields if not _is_plain(field))

    def fill(sent: dict[str, Any]) -> dict[str, Any]:
        full = {**plain, **sent}
        for name, filled in deeper:
            value = filled(full.get(name))
            if value is not None:
                full[name] = value
            elif name in full:
                del full[name]
        return full

    return fill


def _is_plain(field: Field) -> bool:
    return not field.repeated and field.kind not in {Kind.BLOCK, Kind.MAP, Kind.FREE}


def _deeper(field: Field) -> Callable[[Any], Any]:
    """What a value becomes that is no plain one; None: it stays away."""
    if field.kind is Kind.BLOCK:
        inner = _filler(field.fields)
        if field.repeated:
            return lambda value: [inner(item) for item in value or ()]
        return lambda value: inner(value or {}) or None
    if field.repeated:
        default = field.default or ()
        return lambda value: list(value or default) or None
    return lambda value: _copied(value) or None


def _copied(value: Any) -> Any:
    if value.__class__ is dict:
        return {key: _copied(item) for key, item in value.items()}
    if value.__class__ is list:
        return [_copied(item) for item in value]
    return value


_fill = _filler(FIELDS)
