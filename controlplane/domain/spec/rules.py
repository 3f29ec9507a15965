"""What the platform's settings say about every spec: data, given to the checks as an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainplane.addresses import OutboundRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The platform's part in judging a spec.

    Attributes:
        outbound: whom webhooks and status streams may reach besides the public internet.
        dev_mode: allows backend `mock`, the fake trainer with fault knobs.
        default_output_uri: a prefix; a job without `artifacts.output_uri` publishes to `<prefix>/<job_id>/`. Empty:
            the field is required.
        default_log_uri: likewise for `artifacts.log_uri`. Empty: logs are kept by the control plane alone.
        local_roots: directories below which local models and `file://` locations must lie.
    """

    outbound: OutboundRules = field(default_factory=OutboundRules)
    dev_mode: bool = False
    default_output_uri: str = ""
    default_log_uri: str = ""
    local_roots: tuple[str, ...] = ("/",)
