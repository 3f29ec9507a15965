"""The spec as it will be run: what was sent, with every default filled in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from controlplane.domain.spec.field import Field, Kind
from controlplane.domain.spec.fields import DEFAULT_EVENTS, FIELDS, PEFT_OWN_PLACES

if TYPE_CHECKING:
    from controlplane.domain.spec.rules import Rules

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
    custom.setdefault("lora_alpha", 2 * custom["rank"])
    custom["peft"]["config"] = _peft_config(custom["peft"].get("config", {}))
    for dataset in spec["datasets"]:
        if dataset.get("source", "").startswith("file://"):
            dataset.pop("auth", None)
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


def _peft_config(config: dict[str, Any]) -> dict[str, Any]:
    """What is left of PEFT's configuration without the fields that have their own place, where they stand already."""
    return {"task_type": "CAUSAL_LM"} | {key: value for key, value in config.items() if key not in PEFT_OWN_PLACES}


def _filler(fields: tuple[Field, ...]) -> _Fill:
    rows = tuple(_row(field) for field in fields)

    def fill(sent: dict[str, Any]) -> dict[str, Any]:
        full = {}
        get = sent.get
        for name, default, deeper in rows:
            value = get(name)
            if deeper is not None:
                value = deeper(value)
            elif value is None:
                value = default
            if value is not None:
                full[name] = value
        return full

    return fill


def _row(field: Field) -> tuple[str, Any, Callable[[Any], Any] | None]:
    """(name, default, how a value that is not plain is filled or copied)."""
    if field.kind is Kind.BLOCK:
        inner = _filler(field.fields)
        if field.repeated:
            return field.name, None, lambda value: [inner(item) for item in value or ()]
        return field.name, None, lambda value: inner(value or {}) or None
    if field.repeated:
        return field.name, None, lambda value, default=field.default: list(value or default or ()) or None
    if field.kind in {Kind.MAP, Kind.FREE}:
        return field.name, None, lambda value: _copied(value or {}) or None
    return field.name, field.default, None


def _copied(value: Any) -> Any:
    if value.__class__ is dict:
        return {key: _copied(item) for key, item in value.items()}
    if value.__class__ is list:
        return [_copied(item) for item in value]
    return value


_fill = _filler(FIELDS)
