"""What the doors answer to a submit that made a job: rendered where it is prepared, before it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.engine.jobs import JobView
from controlplane.engine.submissions import record_of
from controlplane.rpc import convert

if TYPE_CHECKING:
    from controlplane.domain.job import NewJob
    from controlplane.domain.spec import CheckedSpec
    from controlplane.engine.ports import Vault


class CreatedAnswer:
    """Implements `engine.preparing.Render`: a serialized `trainplane.v1.Job`."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __call__(self, new: NewJob, checked: CheckedSpec) -> bytes:
        """The job, with its webhook signing secret if anything listens."""
        sent = checked.sent
        listens = sent.get("callbacks", {}).get("webhook_url") or sent.get("artifacts", {}).get("status_stream_url")
        view = JobView(record_of(new), sent, checked.effective, queue_position=0)
        secret = self._vault.signing_secret(new.job.uid) if listens else ""
        return convert.job_message(view, signing_secret=secret).SerializeToString()
