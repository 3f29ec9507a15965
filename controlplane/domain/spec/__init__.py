"""The request for a training job: its fields, its parser, its validator, its defaults.

    body ──parse──► raw ──check──► CheckedSpec          HTTP: bytes of JSON
              message, converted ──┘                    gRPC: a TrainingSpec

`fields.py` describes every field once; the validator, the defaults, docs/spec.md and the JSON Schema are made from it
(ADR 0003). Between fields, `relations.py` judges.
"""

from controlplane.domain.spec.budget import fit
from controlplane.domain.spec.checked import CheckedSpec, check
from controlplane.domain.spec.defaults import effective
from controlplane.domain.spec.fields import DEFAULT_EVENTS, EVENT_TYPES, FIELDS
from controlplane.domain.spec.locations import place
from controlplane.domain.spec.reference import reference
from controlplane.domain.spec.relations import backend_names
from controlplane.domain.spec.rules import Rules
from controlplane.domain.spec.sameness import canonical, same, secret_macs
from controlplane.domain.spec.schema import backend_schema, json_schema
from controlplane.domain.spec.shapes import is_job_id
from controlplane.domain.spec.syntax import MAX_BODY_BYTES, parse

__all__ = [
    "DEFAULT_EVENTS",
    "EVENT_TYPES",
    "FIELDS",
    "MAX_BODY_BYTES",
    "CheckedSpec",
    "Rules",
    "backend_names",
    "backend_schema",
    "canonical",
    "check",
    "effective",
    "fit",
    "is_job_id",
    "json_schema",
    "parse",
    "place",
    "reference",
    "same",
    "secret_macs",
]
