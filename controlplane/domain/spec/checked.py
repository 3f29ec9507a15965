"""The judgement of a spec: all that is wrong with it at once, or all that the rest needs to know of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from controlplane.domain.errors import InvalidSpec, Violation
from controlplane.domain.job import Requirement
from controlplane.domain.spec.defaults import effective
from controlplane.domain.spec.fields import FIELDS
from controlplane.domain.spec.findings import Findings
from controlplane.domain.spec.relations import Seen, judge
from controlplane.domain.spec.structure import check_structure
from trainplane import backends

if TYPE_CHECKING:
    from controlplane.domain.spec.rules import Rules

_GIB = 2**30
#: For a job that does not say what memory it needs.
_RESERVED_GB = 1
_POSITIONS = {row.name: index for index, row in enumerate(FIELDS)}


@dataclass(frozen=True, slots=True)
class CheckedSpec:
    """A spec that was found right. Its dicts are its own; treat them as frozen.

    Attributes:
        job_id: the user's own; None if absent.
        sent: as sent, in the table's order, without secrets, nulls and empty containers; whole numbers without a
            fraction.
        secrets: by path (`base_model.auth_token`, `callbacks.auth_header`); left out of the repr.
        effective: every default filled in, no secret.
        warnings: what was accepted and does nothing.
        max_duration_seconds: over all attempts; None: no limit.
    """

    job_id: str | None
    sent: dict[str, Any]
    secrets: dict[str, str] = field(repr=False)
    effective: dict[str, Any]
    warnings: tuple[Violation, ...]
    labels: dict[str, str]
    priority: int
    max_attempts: int
    max_duration_seconds: float | None
    backend: str
    requirement: Requirement


def check(raw: dict[str, Any], *, rules: Rules, fallback_job_id: str | None = None) -> CheckedSpec:
    """Judge a spec as parsed: plain dicts, lists, strings, numbers, booleans and None, from either door.

    Pure; the argument is left as it is. Checking an effective spec gives the same effective spec.

    Args:
        raw: the spec.
        rules: the platform's settings.
        fallback_job_id: the id that the job gets if the spec has none; it ends the default locations.

    Raises:
        InvalidSpec: with all violations, in which no secret's value stands. Nothing else is raised.
    """
    findings = Findings(rules)
    sent = check_structure(raw, "", findings)
    spec = effective(sent, job_id=sent.get("job_id", fallback_job_id), rules=rules)
    warnings = judge(Seen(sent, spec, findings.secrets, rules), findings)
    engine = backends.find(spec["backend"])
    if engine is not None:
        for found in engine.validate(spec):
            findings.add(*found)
    if findings.violations:
        raise InvalidSpec(sorted(findings.violations, key=_position))
    minutes = spec["resources"].get("max_duration_minutes")
    return CheckedSpec(
        job_id=sent.get("job_id"),
        sent=sent,
        secrets=findings.secrets,
        effective=spec,
        warnings=warnings,
        labels=sent.get("labels", {}),
        priority=spec["priority"],
        max_attempts=spec["max_attempts"],
        max_duration_seconds=None if minutes is None else minutes * 60.0,
        backend=spec["backend"],
        requirement=_requirement(spec, spreads=bool(getattr(engine, "several_nodes", False))),
    )


def _position(violation: Violation) -> int:
    """Which top-level field a violation belongs to, in the table's order; unknown ones come last."""
    top = violation.field.partition(".")[0].partition("[")[0]
    return _POSITIONS.get(top, len(_POSITIONS))


def _requirement(spec: dict[str, Any], *, spreads: bool) -> Requirement:
    resources, placement = spec["resources"], spec["placement"]
    return Requirement(
        gpus=resources["gpus"],
        gpu_type=resources.get("gpu_type", ""),
        cpus=resources["cpus"],
        memory_bytes=int(resources.get("memory_gb", _RESERVED_GB) * _GIB),
        runner=placement["runner"],
        node=placement.get("node", ""),
        labels=placement.get("labels", {}),
        spreads=spreads,
    )
