"""Whom a call is about: the project and the job's name."""

from __future__ import annotations

from controlplane.domain import spec
from controlplane.domain.errors import JobNotFound

#: Decided by the credential, once there are credentials.
PROJECT = "default"


def job_name(job_id: str) -> str:
    """A job's name.

    Raises:
        JobNotFound: no job can have this name.
    """
    if not spec.is_job_id(job_id):
        raise JobNotFound(job_id)
    return job_id
